# The next release, whose dependencies are those of the one that runs.
ARG RUNS
FROM $RUNS
COPY migrations migrations
COPY src src
