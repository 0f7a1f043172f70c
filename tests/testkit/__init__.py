"""Real servers, a real Valkey and a raw HTTP client for tests that need a socket to be a socket."""
