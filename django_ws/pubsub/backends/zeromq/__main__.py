"""``python -m django_ws.pubsub.backends.zeromq LOCATION``: the broker in a process of its own."""

import sys

from django_ws.pubsub.backends.zeromq.broker import main

main(sys.argv[1:])
