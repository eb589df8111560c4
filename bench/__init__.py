"""Speed and cost, measured; each module prints one JSON object: `python -m bench.train --json`."""
