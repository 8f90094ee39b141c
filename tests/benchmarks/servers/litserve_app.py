"""The model of `thawline serve` behind LitServe: `python -m tests.benchmarks.servers.litserve_app MODEL PORT`."""

import base64
import sys
from typing import Any

import litserve


class Api(litserve.LitAPI):
    """Micro-batches of records, answered by what answers them in `thawline serve`."""

    def __init__(self, model: str) -> None:
        super().__init__(max_batch_size=32, batch_timeout=0.005, api_path="/invocations")
        self._model = model

    def setup(self, device: str) -> None:
        from components.core.tracking.service import connection
        from pipelines.serving.loading import load

        connection.open_store()
        self._loaded = load(self._model, "champion", 1, exported=True)

    def decode_request(self, request: dict[str, Any], **_: Any) -> bytes:
        return base64.b64decode(request["dataframe_records"][0][self._loaded.column])

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, x: list[bytes] | bytes, **_: Any) -> list[dict[str, Any] | str]:
        return [*self._loaded.answer(x if isinstance(x, list) else [x])]

    def unbatch(self, output: list[dict[str, Any] | str]) -> list[dict[str, Any] | str]:
        return output

    def encode_response(self, output: Any, **_: Any) -> dict[str, Any]:
        return {"predictions": output if isinstance(output, list) else [output]}


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(sys.argv[1]), accelerator="cpu", workers_per_device=2, healthcheck_path="/ping", timeout=120
    )
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="error")
