"""`thawline serve`'s model behind MLServer: `python -m tests.benchmarks.servers.mlserver_app MODEL PORT FOLDER`."""

import base64
import json
import sys
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Runtime(MLModel):
    """Micro-batches of records, answered by what answers them in `thawline serve`."""

    async def load(self) -> bool:
        from components.core.tracking.service import connection
        from pipelines.serving.loading import load

        connection.open_store()
        self._loaded = load(self.settings.parameters.extra["model"], "champion", 2, exported=True)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        records = [base64.b64decode(one) for one in StringCodec.decode_input(payload.inputs[0])]
        said = [json.dumps(one) for one in self._loaded.answer(records)]
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("said", said)])


def main(model: str, port: int, folder: Path) -> None:
    """Write the settings of the server, and start it."""
    from mlserver.cli import main as start

    folder.mkdir(parents=True, exist_ok=True)
    ports = {"host": "127.0.0.1", "http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
    # in the server's own process: the pool of MLServer 1.7.1 does not start with the uvloop that it installs
    (folder / "settings.json").write_text(json.dumps({**ports, "parallel_workers": 0, "debug": False}))
    settings = {
        "name": "model",
        "implementation": "tests.benchmarks.servers.mlserver_app.Runtime",
        "max_batch_size": 32,
        "max_batch_time": 0.005,
        "parameters": {"extra": {"model": model}},
    }
    (folder / "model-settings.json").write_text(json.dumps(settings))
    sys.argv = ["mlserver", "start", str(folder)]
    start()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
