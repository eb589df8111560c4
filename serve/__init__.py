"""The endpoint and the page over a trained run, by Ray Serve: `cllm serve`."""
