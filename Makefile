lock: ## (developers) write the locks anew; needs uv
	uv pip compile $(UVFLAGS) --extra cpu --extra build pyproject.toml -o requirements/cpu.txt
	uv pip compile $(UVFLAGS) --extra cpu --extra build --extra train --extra dev -c requirements/cpu.txt pyproject.toml -o requirements/dev.txt
UVFLAGS = -q --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links
