PY ?= .venv/bin/python
STUBS := client/holdfast/v1

.PHONY: protos check-protos

protos: ## generate the stubs under client/holdfast/v1 from protos/
	rm -f $(STUBS)/*_pb2.py $(STUBS)/*_pb2.pyi $(STUBS)/*_pb2_grpc.py
	$(PY) -m grpc_tools.protoc -Iprotos --python_out=client --pyi_out=client --grpc_python_out=client protos/holdfast/v1/*.proto
	find $(STUBS) -name '*_pb2_grpc.py' ! -name '*_service_pb2_grpc.py' -delete

check-protos: protos ## fail if the committed stubs are not what protos/ gives
	@changed="$$(git status --porcelain -- $(STUBS))" || exit 1; \
	if [ -n "$$changed" ]; then \
		echo "$$changed"; \
		echo "check-protos: the stubs differ from protos/ or are not committed; run 'make protos' and commit $(STUBS)."; \
		exit 1; \
	fi
