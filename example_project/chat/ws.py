"""The handler of the chat demo."""

from typing import Any

from django.contrib.auth.models import User
from django.db import transaction

from chat import commands
from chat.commands import Refused
from chat.models import NAME_LENGTH, Message, Room, topic_of
from chat.signals import ROOMS
from django_ws import WebSocketHandler, user_topic
from django_ws.exceptions import BroadcastError

LOBBY = "Lobby"  # the room of whoever names none
HISTORY = 50  # messages on entering a room
ROOMS_SHOWN = 500  # in the selector


class ChatHandler(WebSocketHandler):
    """One room at a time, and the private messages of the user.

    The page sends ``{"enter": name}`` and ``{"say": text}``. Each text is answered, in order,
    with ``{"said": true}`` or ``{"refused": reason}``; a refused room with ``{"error": reason}``.
    Visitors who are not logged in may read. All hooks are sync, so they use the ORM as a view
    does; ``send``, ``subscribe`` and ``broadcast`` wait there until they are done.
    """

    max_message_size = 16 * 1024  # bytes: the longest text, each character as two JSON escapes
    room_id: int | None = None

    def get_topics(self) -> list[str]:
        user = self.request.user
        return [ROOMS, user_topic(user)] if user.is_authenticated else [ROOMS]

    def on_open(self) -> None:
        self.start_ping(interval=20)
        rooms = list(Room.objects.values_list("name", flat=True)[:ROOMS_SHOWN])
        self.send({"you": self.request.user.get_username() or None, "rooms": rooms})

    def on_message(self, message: Any) -> None:
        match message:
            case {"enter": str(name)}:
                self.enter(name)
            case {"say": str(text)}:
                self.say(text)
            case _:
                self.send({"error": "send a room to enter, or a text to say"})

    def on_broadcast_gap(self, topics: frozenset[str]) -> None:
        if self.room_id is not None and topic_of(self.room_id) in topics:
            self.send_history(self.room_id)
        if self.request.user.is_authenticated and user_topic(self.request.user) in topics:
            self.send({"error": "Private messages of the last moments may not have arrived."})

    # Rooms

    def enter(self, name: str) -> None:
        try:
            room = self.find_room(name.strip() or LOBBY)
        except Refused as refusal:
            self.send({"error": str(refusal)})
            if self.room_id is None:
                self.enter(LOBBY)
            return
        if self.room_id is not None and self.room_id != room.pk:
            self.unsubscribe(topic_of(self.room_id))
        self.room_id = room.pk
        # First the room, so that the page knows whose messages to show from now on; then the
        # topic, then the query. So no message falls in between; one that comes both ways the
        # page knows by its id.
        self.send({"room": {"id": room.pk, "name": room.name}})
        self.subscribe(room.topic)
        self.send_history(room.pk)

    def find_room(self, name: str) -> Room:
        """The room, made if need be. Raises ``Refused``."""
        if len(name) > NAME_LENGTH:
            raise Refused(f"The name of a room has at most {NAME_LENGTH} characters.")
        if "\0" in name:
            raise Refused("The name of a room cannot have a NUL character.")
        if self.request.user.is_authenticated or name == LOBBY:
            return Room.objects.get_or_create(name=name)[0]
        room = Room.objects.filter(name=name).first()
        if room is None:
            raise Refused(f"There is no room “{name}” yet. Log in to open it.")
        return room

    def send_history(self, room_id: int) -> None:
        """Send the last messages, oldest first, and whether there are more before them."""
        newest = Message.objects.filter(room=room_id).select_related("author").order_by("-id")
        found = list(newest[: HISTORY + 1])
        messages = [message.as_sent() for message in reversed(found[:HISTORY])]
        self.send({"history": messages, "of": room_id, "earlier": len(found) > HISTORY})

    # Messages

    def say(self, text: str) -> None:
        try:
            author = self.request.user
            if not author.is_authenticated:
                raise Refused("Log in to write.")
            match commands.parse(text):
                case commands.Private(name, words):
                    self.whisper(author, name, words)
                case commands.Public(words):
                    self.post(author, words)
        except Refused as refusal:
            self.send({"refused": str(refusal)})
        else:
            self.send({"said": True})

    def post(self, author: User, text: str) -> None:
        """Store a message; the signal of its model broadcasts it when that is committed."""
        with transaction.atomic():
            room = Room.objects.select_for_update().filter(pk=self.room_id).first()
            if room is None:
                raise Refused("This room is no more. Choose another one.")
            Message.objects.create(room=room, author=author, text=text)

    def whisper(self, author: User, name: str, text: str) -> None:
        """Send a message to all tabs of both, and to nobody else. It is not stored."""
        receiver = commands.user_called(name)
        private = commands.private_message(author, receiver, text)
        try:
            self.broadcast([user_topic(author), user_topic(receiver)], private)
        except BroadcastError:
            raise Refused("The private message could not be sent. Try again later.") from None
