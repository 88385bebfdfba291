"""System checks: settings, routes, handlers, deployment."""
