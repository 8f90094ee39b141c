# Stands in for postgres:16 where it can't be pulled: Debian's Postgres 15 with what compose.yaml uses of its interface.
ARG BASE
FROM ${BASE}
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql && rm -rf /var/lib/apt/lists/*
ENV PATH=/usr/lib/postgresql/15/bin:$PATH PGDATA=/var/lib/postgresql/data
RUN printf '%s\n' '#!/bin/sh' 'set -e' 'if [ ! -s "$PGDATA/PG_VERSION" ]; then' \
    '  echo "$POSTGRES_PASSWORD" > /tmp/password && initdb -U "$POSTGRES_USER" -A scram-sha-256 --pwfile=/tmp/password' \
    '  rm /tmp/password && echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"' \
    '  PGPASSWORD=$POSTGRES_PASSWORD; export PGPASSWORD; pg_ctl -o "-k /tmp" -w start' \
    '  createdb -h 127.0.0.1 -U "$POSTGRES_USER" "$POSTGRES_DB" && pg_ctl -w stop' \
    'fi' 'exec postgres -k /tmp -c "listen_addresses=*"' > /entrypoint.sh \
    && chmod +x /entrypoint.sh && install -d -o postgres -g postgres "$PGDATA"
VOLUME /var/lib/postgresql/data
USER postgres
ENTRYPOINT ["/entrypoint.sh"]
