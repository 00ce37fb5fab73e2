"""The Optuna study: its searcher, its journal, and its warm start from earlier runs."""
