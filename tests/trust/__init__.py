"""Programs that show whether a promise of docs/reliability.md holds, by breaking what may break. `make trust` runs them."""
