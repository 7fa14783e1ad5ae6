// The room in the browser: draws what the model shows and sends back what the learner does.
// Nothing here knows a right answer; see widget.py.

const SIGNS = { right: "✔", partly: "◐", wrong: "✘" };
const RATINGS = ["again", "hard", "good", "easy"];
const SECONDS_TO_WAIT = 12;
const CHOICES = { single: "radio", several: "checkbox" };
const LABELS = {
  single: "Choose one.",
  several: "Choose all that are right.",
  bug: "Choose the line that is wrong.",
  order: "Put the steps in order with the buttons, the first on top.",
};

const el = (tag, { attributes = {}, ...properties } = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null && child !== ""));
  return node;
};
const rich = (tag, html, className = "") => el(tag, { className, innerHTML: html });

function render({ model, el: place }) {
  const unique = "room" + Math.random().toString(36).slice(2);
  const root = el("section", { className: "tl-room", attributes: { "aria-label": "Interview room" } });
  const top = el("div", { className: "tl-top" });
  const body = el("form", { noValidate: true, autocomplete: "off" });
  // It stays while all else is drawn anew, or screen readers would not hear it change.
  const status = el("p", { className: "tl-status", tabIndex: -1, attributes: { role: "status" } });
  const after = el("div", { className: "tl-after" });
  root.append(top, body, status, after);
  place.append(root);

  let read = () => null; // the answer as it stands in the controls
  let moving = false; // whether what comes next was asked for here, so that the focus may move
  let waiting, typing, ticking, clockEnd;

  // --- to the kernel ---
  const send = (request, value = null) => {
    save();
    moving = true;
    status.className = "tl-status";
    const kind = model.get("shown").front?.kind;
    const long = request === "answer" && (kind === "open" || kind === "code");
    status.textContent = request !== "answer" ? "" : long ? "Checking, which may take a while…" : "Checking…";
    root.setAttribute("aria-busy", "true");
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      heard();
      say("No word from the kernel. Was it restarted, or is it busy? Then run the cell again.");
    }, (long ? 5 : 1) * SECONDS_TO_WAIT * 1000);
    model.send({ do: request, value });
  };
  const heard = () => {
    clearTimeout(waiting);
    root.removeAttribute("aria-busy");
  };
  const say = (words) => {
    status.className = "tl-status tl-problem";
    status.textContent = words;
  };
  // What is typed survives a pause and a restart of the kernel.
  const save = () => {
    clearTimeout(typing);
    if (!typing || model.get("shown").back) return;
    typing = null;
    model.set("given", read());
    model.save_changes();
  };
  const keep = () => {
    clearTimeout(typing);
    typing = setTimeout(save, 400);
  };
  const answer = () => {
    const given = read();
    if (given === null || given.length === 0) {
      say("Give an answer first.");
      body.querySelector("input, textarea")?.focus();
      return;
    }
    send("answer", given);
  };

  // --- the controls of each kind; each returns its node and sets how it is read ---
  const choice = (front, given, closed, notes) => {
    const type = CHOICES[front.kind];
    const chosen = [].concat(given ?? []);
    const inputs = front.options.map((_, k) =>
      el("input", { type, name: unique, checked: chosen.includes(k), disabled: closed })
    );
    read = () => {
      const found = inputs.flatMap((input, k) => (input.checked ? [k] : []));
      return front.kind === "several" ? found : found[0] ?? null;
    };
    return el("div", {}, ...front.options.map((option, k) => row(inputs[k], rich("span", option), notes?.[k])));
  };
  const row = (input, words, note) => {
    const line = el("div", { className: "tl-option" }, el("label", {}, input, words));
    if (note) line.append(explained(note, false));
    return line;
  };
  const lines = (front, given, closed) => {
    const inputs = front.lines.map((_, k) =>
      el("input", { type: "radio", name: unique, checked: given === k + 1, disabled: closed })
    );
    read = () => {
      const at = inputs.findIndex((input) => input.checked);
      return at < 0 ? null : at + 1;
    };
    const number = (k) => el("span", { className: "tl-number", textContent: k + 1 });
    const code = (line) => el("code", { textContent: line });
    return el("div", { className: "tl-lines" },
      ...front.lines.map((line, k) => el("label", {}, inputs[k], number(k), code(line)))
    );
  };
  const order = (front, given, closed) => {
    const steps = given?.length === front.options.length ? [...given] : front.options.map((_, k) => k);
    const list = el("ol", { className: "tl-order" });
    read = () => [...steps];
    const move = (step, by, button) => {
      const from = steps.indexOf(step), to = from + by;
      if (to < 0 || to >= steps.length) return;
      steps.splice(to, 0, ...steps.splice(from, 1));
      fill();
      button.focus();
      status.className = "tl-status";
      status.textContent = `Now step ${to + 1} of ${steps.length}.`;
      keep();
    };
    const items = front.options.map((option, step) => {
      const words = rich("span", option);
      const button = (by, sign, name) => {
        const made = el("button", { type: "button", textContent: sign });
        made.setAttribute("aria-label", `Move ${name}: ${words.textContent}`);
        made.addEventListener("click", () => move(step, by, made));
        return made;
      };
      const controls = closed ? [] : [button(-1, "↑", "up"), button(1, "↓", "down")];
      return el("li", {}, el("div", {}, ...controls, words));
    });
    const fill = () => list.append(...steps.map((step) => items[step]));
    fill();
    return list;
  };
  const typed = (front, given, closed) => {
    const long = front.kind === "code" || front.kind === "open";
    const input = el(long ? "textarea" : "input", {
      value: given ?? front.stub,
      className: front.kind === "number" || front.kind === "open" ? "" : "tl-code",
      readOnly: closed,
      spellcheck: front.kind === "open",
    });
    if (long) input.rows = front.kind === "code" ? Math.max(8, front.stub.split("\n").length + 4) : 6;
    else Object.assign(input, { type: "text", size: front.kind === "number" ? 14 : 34 });
    read = () => (input.value.trim() ? input.value : null);
    const words = { number: "Your answer", output: "It prints", code: "Your code", open: "Your answer" };
    const help = {
      number: "Type it as you like: 1280, 1.28e3, 64 %, 3/4.",
      code: "Tab leaves the box; indent with spaces.",
    }[front.kind];
    const line = el("label", { className: "tl-typed" }, words[front.kind] + " ", input, front.unit ? " " + front.unit : "");
    return el("div", {}, line, help && !closed ? el("p", { className: "tl-help", textContent: help }) : "");
  };
  const CONTROLS = { single: choice, several: choice, bug: lines, order };

  // --- after the answer ---
  const explained = (note, named) => {
    const words = note.right ? "✔ right" : "✘ not right";
    const what = named ? el("strong", {}, (note.sign ?? words[0]) + " ", rich("span", note.text))
      : el("strong", { textContent: note.chosen ? `${words}, your choice` : words });
    const gap = /[.?!]$/.test(what.textContent) ? " " : ": ";
    const parts = note.why ? [gap, rich("span", note.why)] : [];
    return el("p", { className: note.right ? "tl-note tl-right" : "tl-note" }, what, ...parts);
  };
  const overruling = (notes) => {
    const boxes = [];
    const list = notes.map((note, k) => {
      const item = explained(note, true);
      if (!note.box) return item;
      const box = el("input", { type: "checkbox", checked: note.overruled, value: k + 1 });
      box.addEventListener("change", () => {
        send("overrule", boxes.filter((b) => b.checked).map((b) => Number(b.value)));
        moving = false;
      });
      boxes.push(box);
      const name = el("span", { textContent: note.box });
      return el("div", {}, item, el("label", { className: "tl-mine" }, box, name));
    });
    return list;
  };
  const rating = (now) => {
    const group = el("div", { className: "tl-rating", attributes: { role: "group", "aria-label": "How hard was it?" } });
    group.append(el("span", { textContent: "How hard was it?", attributes: { "aria-hidden": "true" } }));
    for (const name of RATINGS) {
      const button = el("button", { type: "button", textContent: name });
      button.setAttribute("aria-pressed", String(name === now));
      button.addEventListener("click", () => {
        send("rate", name);
        moving = false;
        for (const other of group.querySelectorAll("button")) {
          other.setAttribute("aria-pressed", String(other === button));
        }
      });
      group.append(button);
    }
    return group;
  };

  // --- the head: where we are, the clock, the choice of topics ---
  const head = (shown) => {
    const clock = shown.clock ? el("span", { className: "tl-clock", attributes: { role: "timer", "aria-label": "Time left" } }) : "";
    if (clock) tick(clock, shown.clock);
    const where = shown.front ? shown.front.where : "Interview room";
    const line = el("p", { className: "tl-where" }, el("span", { textContent: where }), el("span", {}, shown.progress, clock ? " · " : "", clock));
    return [line, shown.pick ? picker(shown.pick) : ""].filter(Boolean);
  };
  const tick = (clock, { left, running }) => {
    clockEnd = Date.now() + left * 1000;
    const draw = () => {
      const seconds = Math.max(0, running ? Math.round((clockEnd - Date.now()) / 1000) : left);
      const two = String(seconds % 60).padStart(2, "0");
      clock.textContent = seconds ? `${Math.floor(seconds / 60)}:${two}` : "time is up, finish this answer";
    };
    draw();
    if (running) ticking = setInterval(draw, 1000);
  };
  const picker = (pick) => {
    const select = (name, label, all, values) => {
      const options = [el("option", { value: "", textContent: all }), ...values.map((v) => el("option", { value: v, textContent: v }))];
      const made = el("select", { name }, ...options);
      made.value = pick[name] ?? "";
      return el("label", {}, label + " ", made);
    };
    const go = el("button", { type: "button", textContent: "Ask about this" });
    const box = el("details", { className: "tl-pick" },
      el("summary", { textContent: "Choose topic and level" }),
      select("topic", "Topic", "all topics", pick.topics),
      select("level", "Level", "all levels", pick.levels), go);
    go.addEventListener("click", () => {
      const value = (name) => box.querySelector(`[name=${name}]`).value || null;
      send("pick", { topic: value("topic"), level: value("level") });
    });
    return box;
  };

  // --- everything together ---
  const question = (front, given, back) => {
    const legend = rich("legend", front.legend);
    legend.tabIndex = -1;
    const set = el("fieldset", {}, legend);
    if (front.more) set.append(rich("div", front.more, "tl-more"));
    if (front.code) set.append(el("pre", { tabIndex: 0 }, el("code", { textContent: front.code })));
    if (LABELS[front.kind] && !back) set.append(el("p", { className: "tl-help", textContent: LABELS[front.kind] }));
    const control = CONTROLS[front.kind] ?? typed;
    set.append(control(front, given, Boolean(back), back?.notes));
    return set;
  };
  const buttons = (list) => {
    const made = list.map(([request, label], k) => {
      const button = el("button", { type: request === "answer" ? "submit" : "button", textContent: label });
      if (k === 0) button.className = "tl-first";
      if (request !== "answer") button.addEventListener("click", () => send(request));
      return button;
    });
    return el("div", { className: "tl-buttons" }, ...made);
  };
  const draw = () => {
    const shown = model.get("shown");
    const { front, back } = shown;
    const focus = moving;
    moving = false;
    heard();
    clearInterval(ticking);
    top.replaceChildren(...head(shown));
    read = () => null;
    body.replaceChildren(...(front ? [question(front, model.get("given"), back)] : []));
    if (shown.hint) body.append(rich("p", shown.hint, "tl-hint"));
    if (!back && front) body.append(buttons(shown.buttons));
    after.replaceChildren();
    status.className = back ? `tl-status tl-${back.state}` : "tl-status";
    status.textContent = back ? `${SIGNS[back.state]} ${back.says}` : shown.said ?? "";
    if (back) {
      if (!CHOICES[front.kind]) after.append(...overruling(back.notes));
      after.append(rich("div", back.solution), rich("p", back.reason, "tl-help"), rich("p", back.links, "tl-help"));
      after.append(rating(back.rating));
    }
    if (shown.html) after.append(rich("div", shown.html, "tl-report"));
    if (back || !front) after.append(buttons(shown.buttons));
    if (!focus) return;
    const target = back ? status : front ? body.querySelector("legend") : after;
    if (target === after) after.tabIndex = -1;
    target.focus({ preventScroll: true });
    target.scrollIntoView({ block: "nearest" });
  };

  body.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!model.get("shown").back) answer();
  });
  body.addEventListener("input", keep);
  // No key reaches the notebook, where b inserts a cell and x cuts one; saving still works.
  for (const name of ["keydown", "keyup", "keypress"]) {
    root.addEventListener(name, (event) => {
      if (!(event.key === "s" && (event.ctrlKey || event.metaKey))) event.stopPropagation();
    });
  }
  const problem = (message) => {
    if (!message.problem) return;
    heard();
    moving = false;
    say(message.problem);
    body.querySelector("input:not(:disabled), textarea")?.focus();
  };
  model.on("change:shown", draw);
  model.on("msg:custom", problem);
  draw();
  return () => {
    model.off("change:shown", draw);
    model.off("msg:custom", problem);
    for (const timer of [waiting, typing]) clearTimeout(timer);
    clearInterval(ticking);
  };
}

export default { render };
