.PHONY: observe

observe:  ## make up, with Prometheus, Grafana and Jaeger
	@COMPOSE_PROFILES=observability SPINE_METRICS_PORT=9464 \
	OTEL_EXPORTER_OTLP_ENDPOINT=http://jaeger:4318 sh scripts/compose.sh up --build --detach --wait
