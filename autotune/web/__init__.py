"""The service over HTTP: an API under /v1, pages for browsers, the Optuna dashboard, all behind one login."""
