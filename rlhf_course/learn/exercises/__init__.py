"""The exercises, one module a topic, each with a list `EXERCISES`; `catalogue` says how one is written."""
