"""Settings of every test process, made before JAX is imported."""

import os

os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")  # tests leave nothing in a user's folders
