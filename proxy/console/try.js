// Try it: one completion is sent through the proxy and fanned into three panes; the second can be cut and resumed.
import { APIS } from "./apis.js";
import { make, mark, say } from "./element.js";
import { follow } from "./follow.js";
import { count, counted, duration } from "./format.js";
import { blocksOf, dataOf, textOf } from "./reading.js";
import { ask, pathOf, refused } from "./requests.js";

const MODES = ["text", "coalesced", "chat", "cumulative", "incremental", "spaced"];

/** The view with the form and the panes; `close` it when it is left. */
export class TryView {
  #feed;
  #form;
  #run = null;
  #panes = make("div", { class: "panes" });
  #verdict = make("p", { class: "verdict", role: "status" });

  constructor(feed) {
    this.#feed = feed;
    this.#form = this.#makeForm();
    this.element = make(
      "section",
      { class: "try", "aria-labelledby": "try-title" },
      make("h1", { id: "try-title", text: "Try it" }),
      make("p", {
        class: "lead",
        text: "One request goes upstream, as a client’s would. Three readers get the stream: the client that asked, a follower that you can cut off and resume, and one in another mode.",
      }),
      this.#form,
      this.#verdict,
      this.#panes,
    );
    this.#panes.append(make("p", { class: "empty", text: "Nothing has been sent yet." }));
  }

  /** Stop the request and all its readers. */
  close() {
    this.#run?.close();
  }

  /** Offer the models that were seen. */
  update() {
    const models = new Set((this.#feed.overview?.streams ?? []).map(({ model }) => model).filter(Boolean));
    const list = this.#form.querySelector("datalist");
    if (list.children.length !== models.size)
      list.replaceChildren(...[...models].map((value) => make("option", { value })));
  }

  #makeForm() {
    const field = (name, text, control, hint) =>
      make(
        "p",
        { class: `field ${name}` },
        make("label", { for: `try-${name}`, text }),
        control,
        hint ? make("small", { text: hint }) : null,
      );
    const input = (name, props) =>
      make("input", { id: `try-${name}`, autocomplete: "off", spellcheck: "false", ...props });
    const apis = Object.entries(APIS).map(([value, { title: text }]) => make("option", { value, text }));
    const form = make(
      "form",
      { class: "ask", onsubmit: (event) => (event.preventDefault(), this.#send()) },
      field("api", "API", make("select", { id: "try-api" }, apis)),
      field("model", "Model", input("model", { value: "qwen-plus", list: "try-models", required: true })),
      field(
        "key",
        "Key",
        input("key", { type: "password", placeholder: "the proxy’s own, if it has one" }),
        "Used for this request alone; never stored.",
      ),
      field(
        "mode",
        "Third pane",
        make(
          "select",
          { id: "try-mode" },
          MODES.map((text) => make("option", { text })),
        ),
      ),
      field(
        "prompt",
        "Prompt",
        make("textarea", { id: "try-prompt", rows: 2, required: true }, "Why do rivers meander?"),
      ),
      make(
        "p",
        { class: "row" },
        make("button", { class: "primary", text: "Send" }),
        make("button", {
          type: "button",
          class: "danger",
          text: "Stop",
          disabled: true,
          onclick: () => this.#run?.cancel(),
        }),
      ),
      make("datalist", { id: "try-models" }),
    );
    return form;
  }

  async #send() {
    const value = (name) => this.#form.querySelector(`#try-${name}`).value;
    const [send, stop] = this.#form.querySelectorAll("button");
    this.#run?.close();
    const run = (this.#run = new Run(value("mode"), (text, tone) => this.#tell(run, text, tone)));
    this.#panes.replaceChildren(...run.panes.map(({ element }) => element));
    [send.disabled, stop.disabled] = [true, false];
    await run.start(APIS[value("api")], value("model"), value("prompt"), value("key").trim());
    if (this.#run === run) [send.disabled, stop.disabled] = [false, true];
  }

  #tell(run, text, tone = "") {
    if (this.#run !== run) return;
    say(this.#verdict, text);
    this.#verdict.dataset.tone = tone;
  }
}

/** One request and its three readers. */
class Run {
  #stop = new AbortController();
  #cut = null; // aborts the second reader
  #had = []; // the data of the events that the client that asked was sent
  #got = []; // the same of the follower that is cut
  #cuts = [];
  #lastId = "";
  #over = false; // the client that asked has had the end
  #tell;

  constructor(mode, tell) {
    this.#tell = tell;
    this.mode = mode;
    this.asker = new Pane("The client that asked", "raw: the upstream’s bytes");
    this.follower = new Pane("A follower, resumed", "events: each with an id");
    this.other = new Pane("Another follower", mode === "text" ? "text: the answer alone" : mode);
    mark(this.other.body, "text", mode === "text");
    this.panes = [this.asker, this.follower, this.other];
    this.button = make("button", {
      type: "button",
      class: "small",
      text: "Cut",
      disabled: true,
      onclick: () => this.#toggle(),
    });
    this.follower.head.append(this.button);
  }

  close() {
    this.#stop.abort();
    this.#cut?.abort();
  }

  async cancel() {
    if (this.ident) await ask("POST", `${pathOf(this.ident)}/cancel`, {}).catch(() => this.close());
    else this.close();
  }

  async start(api, model, prompt, key) {
    this.#tell("Sent. Waiting for the upstream…");
    const { path, body, ...asked } = filled(api, { model, prompt, key });
    const headers = { "Content-Type": "application/json", "Stream-On-Disconnect": "cancel", ...asked.headers };
    if (key) Object.assign(headers, asked.key);
    try {
      const response = await fetch(`/admin/try${path}`, {
        method: "POST",
        headers,
        body: JSON.stringify(body),
        signal: this.#stop.signal,
      });
      if (!response.ok) throw await refused(response);
      this.ident = response.headers.get("Stream-Id");
      if (!this.ident) throw new Error("the upstream answered without a stream");
      this.#tell(`Stream ${this.ident}`);
      this.button.disabled = false;
      await Promise.all([this.#ask(response), this.#follow(), this.#readOther()]);
    } catch (error) {
      if (!this.#stop.signal.aborted) this.#tell(`Refused: ${error.message}`, "bad");
    }
  }

  async #ask(response) {
    const began = performance.now();
    try {
      for await (const block of blocksOf(response)) {
        const data = dataOf(block);
        if (data !== null) this.#had.push(data);
        this.asker.add(`${block}\n\n`);
        this.asker.count(this.#had.length);
        if (this.#isCut) this.follower.note(`${counted(this.#had.length - this.#got.length, "event")} came meanwhile`);
      }
      this.asker.end(`${counted(this.#had.length, "event")} in ${duration((performance.now() - began) / 1000)}`);
    } catch (error) {
      if (!this.#stop.signal.aborted) this.asker.end(`broken off: ${error.message}`, "bad");
    }
    this.#over = true;
    this.#judge();
  }

  get #isCut() {
    return this.#cut?.signal.aborted ?? false;
  }

  /** Follow until the end; while it is cut, wait. */
  async #follow() {
    this.#cut = new AbortController();
    const options = { signal: this.#cut.signal, lastEventId: this.#lastId };
    try {
      for await (const { id, data } of follow(`${pathOf(this.ident)}?mode=events`, options)) {
        this.#lastId = id;
        this.#got.push(data);
        this.follower.add(`${id}  ${data}\n`);
        this.follower.count(this.#got.length);
      }
    } catch (error) {
      if (this.#isCut) return;
      this.follower.end(`broken off: ${error.message}`, "bad");
    }
    this.button.disabled = true;
    this.#followed = true;
    this.#judge();
  }

  #followed = false;

  #toggle() {
    if (!this.#isCut) {
      this.#cut.abort();
      this.#cuts.push(this.#got.length);
      this.follower.rule(`cut after event ${this.#got.length}`);
      this.follower.note("cut off");
    } else {
      this.follower.rule(this.#lastId ? `resumed after ${this.#lastId}` : "resumed from the start");
      this.follower.note("");
      this.#follow();
    }
    mark(this.follower.element, "cut", this.#isCut);
    say(this.button, this.#isCut ? "Resume" : "Cut");
  }

  async #readOther() {
    const url = pathOf(this.ident);
    const signal = this.#stop.signal;
    let pieces = 0;
    try {
      const source =
        this.mode === "text"
          ? textOf(url, { signal, ended: () => this.#over })
          : events(`${url}?mode=${this.mode}`, signal);
      for await (const piece of source) {
        this.other.add(piece);
        this.other.count(++pieces, "piece");
      }
      this.other.end("the end");
    } catch (error) {
      if (!signal.aborted) this.other.end(error.message, "bad");
    }
  }

  /** Say whether the follower was sent what the client that asked was: all of it, once, and in order. */
  #judge() {
    if (!this.#over || !this.#followed || this.#stop.signal.aborted) return;
    const [had, got] = [this.#had, this.#got];
    const same = had.length === got.length && had.every((data, index) => data === got[index]);
    const cuts = this.#cuts.length ? `cut after event ${this.#cuts.map(count).join(" and ")} and resumed` : "never cut";
    if (same) this.follower.end(`all ${counted(got.length, "event")}, ${cuts}`, "done");
    else this.follower.end(`${count(got.length)} events, where the client that asked had ${count(had.length)}`, "bad");
    this.#tell(
      same
        ? `The follower, ${cuts}, got the same ${counted(got.length, "event")} as the client that asked: none lost, none repeated.`
        : "The two readers do not have the same events: the stream failed, or was cancelled.",
      same ? "done" : "bad",
    );
  }
}

/** Return an API's request with the values filled in where their names stand in braces. */
function filled(api, values) {
  const inText = (text) => text.replace(/\{(\w+)\}$/, (whole, name) => values[name] ?? whole);
  return JSON.parse(JSON.stringify(api), (_, value) => (typeof value === "string" ? inText(value) : value));
}

async function* events(url, signal) {
  for await (const { data } of follow(url, { signal })) yield `${data}\n`;
}

/** One reader: what it is, how much it had, and the bytes themselves. */
class Pane {
  constructor(title, mode) {
    this.counted = make("span", { class: "number dim" });
    this.head = make("div", { class: "row" }, make("h2", { text: title }), make("span", { class: "dim", text: mode }));
    this.body = make("pre", { class: "reading", tabindex: "0", "aria-label": `${title}, ${mode}` });
    this.told = make("p", { class: "remark", role: "status" });
    this.element = make(
      "article",
      { class: "pane" },
      this.head,
      this.body,
      make("div", { class: "row foot" }, this.counted, this.told),
    );
  }

  add(text) {
    const atEnd = this.body.scrollHeight - this.body.scrollTop - this.body.clientHeight < 40;
    this.body.append(text);
    if (atEnd) this.body.scrollTop = this.body.scrollHeight;
  }

  rule(text) {
    this.body.append(make("span", { class: "rule", text: `${text}\n` }));
    this.body.scrollTop = this.body.scrollHeight;
  }

  count(number, what = "event") {
    say(this.counted, counted(number, what));
  }

  note(text, tone = "") {
    say(this.told, text);
    this.told.dataset.tone = tone;
  }

  end(text, tone) {
    this.note(text, tone);
    this.element.classList.add("over");
  }
}
