"""What the HTTP edge and the workers share: model, protocol, ports, adapters, settings."""
