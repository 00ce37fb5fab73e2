"""The Optuna study: its searcher, its journal, and what it learns from former runs."""
