from django_ws import get_websocket_application

application = get_websocket_application()
