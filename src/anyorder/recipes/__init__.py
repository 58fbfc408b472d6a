"""One TOML file per experiment."""
