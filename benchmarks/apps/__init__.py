"""The apps that are measured: the same stream of events in every variant."""
