"""What a request asks for: which route and action, whose stream it is, and from where on."""
