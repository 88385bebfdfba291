"""django_ws, set up as the README says."""

import os

from django_ws import get_websocket_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.project.settings")
application = get_websocket_application()
