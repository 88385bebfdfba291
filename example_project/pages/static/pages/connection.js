// The browser's end of a connection: opens it, shows its state, opens it again when it is lost.

const FIRST_WAIT = 500; // milliseconds; doubled with each failure
const LONGEST_WAIT = 30_000;
const STABLE = 5_000; // a connection that lived so long starts the waits anew

// Codes after which trying again would only be refused again: policy, log-in ended, not allowed.
const FINAL = new Set([1008, 4401, 4403]);

const TEXTS = {
  connecting: "Connecting…",
  open: "Connected",
  waiting: "Connection lost, trying again…",
  closed: "Closed by the server",
};

export class Connection {
  /**
   * url: ws:// or wss://. status: the element that shows the state. protocols: the subprotocols
   * that are offered. onOpen(), onMessage(value), onLost(code): what the page does. A page that
   * hears nothing for `silence` milliseconds takes the connection for dead: use it where the
   * server pings.
   */
  constructor(
    url,
    status,
    { protocols = [], onOpen = () => {}, onMessage, onLost = () => {}, silence = 0 },
  ) {
    Object.assign(this, { url, status, protocols, onOpen, onMessage, onLost, silence });
    this.failures = 0;
    this.open();
    addEventListener("online", () => this.hurry());
    // A page that comes back from the browser's page cache has lost its connection.
    addEventListener("pageshow", (event) => event.persisted && this.hurry());
  }

  open() {
    clearTimeout(this.retry);
    this.show("connecting");
    const socket = new WebSocket(this.url, this.protocols);
    this.socket = socket;
    let stable;
    socket.onopen = () => {
      if (socket !== this.socket) return;
      stable = setTimeout(() => (this.failures = 0), STABLE);
      this.show("open");
      this.listen();
      this.onOpen();
    };
    socket.onmessage = (event) => {
      if (socket !== this.socket) return;
      this.listen();
      const message = JSON.parse(event.data);
      if (message.ping === undefined) this.onMessage(message);
    };
    socket.onclose = (event) => {
      clearTimeout(stable);
      if (socket === this.socket) this.lost(event.code);
    };
  }

  /** Returns whether the message was handed to the browser; a lost connection takes none. */
  send(message) {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }

  /** Give this connection up and open another one after a while. */
  drop() {
    const socket = this.socket;
    this.socket = null; // its close event may take long and means nothing any more
    socket.close();
    this.lost(1006);
  }

  lost(code) {
    clearTimeout(this.deaf);
    this.onLost(code);
    if (FINAL.has(code)) {
      this.show("closed");
      return;
    }
    // Growing, so that a server in trouble is left alone; spread at random, so that many pages
    // do not come back in the same moment.
    const limit = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.failures);
    this.failures += 1;
    this.show("waiting");
    this.retry = setTimeout(() => this.open(), limit * (0.5 + Math.random() / 2));
  }

  hurry() {
    if (this.status.dataset.state === "waiting") this.open();
  }

  listen() {
    clearTimeout(this.deaf);
    if (!this.silence) return;
    this.deaf = setTimeout(() => this.drop(), this.silence);
  }

  show(state) {
    this.status.dataset.state = state;
    this.status.textContent = TEXTS[state];
  }
}
