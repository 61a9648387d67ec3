"use strict";
// Fills the panels, which BokehJS draws, and the numbers above them with one tick of the chosen day.
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const at = (id) => document.getElementById(id);
  const days = read("days"), panels = read("panels"), names = Object.keys(panels);
  const slider = at("tick"), which = at("which"), play = at("play");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
  const few = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
  const shown = (x) => (x === null || !Number.isFinite(x) ? "–" : Math.abs(x) < 1000 ? few.format(x) : whole.format(x));
  const clock = (hours) => {
    const minutes = Math.round(60 * hours);
    return `${String(Math.floor(minutes / 60)).padStart(2, "0")}:${String(minutes % 60).padStart(2, "0")}`;
  };
  const sum = (row) => row.reduce((total, x) => total + x, 0);
  const model = (name) => {
    for (const one of Bokeh.documents) {
      const found = one.get_model_by_name(name);
      if (found !== null) return found;
    }
    throw new Error(`no model is called ${name}`);
  };

  let day = null, timer = null;

  // Money spent so far, and price paid, of every advertiser in every tick.
  function prepare(raw) {
    const total = raw.budget.map(() => 0);
    const spent = raw.spend.map((row) => row.map((x, i) => (total[i] += x, (100 * total[i]) / raw.budget[i])));
    const price = raw.spend.map((row, t) => row.map((x, i) => (raw.wins[t][i] > 0 ? (1000 * x) / raw.wins[t][i] : NaN)));
    return { ...raw, spent, price };
  }

  const known = (rows) => rows.flat().filter(Number.isFinite);
  const highest = (rows) => known(rows).reduce((a, b) => Math.max(a, b), 0);

  const lowest = (numbers) => numbers.reduce((a, b) => Math.min(a, b), Infinity);

  function choose() {
    day = prepare(days[Number(which.value)]);
    slider.max = String(day.spend.length - 1);
    at("note").textContent = `From ${day.note}.`;
    const hour = [], price = [];
    day.price_of_day = days[Number(which.value)].price;
    day.price_of_day.forEach((x, t) => { hour.push(day.hours * (t + 0.5)); price.push(x === null ? NaN : x); });
    model("data-market").data = { hour, price };
    const positive = (rows) => known(rows).filter((x) => x > 0);
    const multipliers = positive(day.multiplier), prices = positive(day.price);
    for (const name of names.filter((x) => x !== "market")) {
      Object.assign(model(`plot-${name}`).x_range, { start: -1, end: day.kind.length });
    }
    const reach = (name, start, end) => Object.assign(model(`plot-${name}`).y_range, { start, end });
    reach("market", 0, 1.1 * highest([price]) || 1);
    reach("spent", 0, 105);
    reach("multiplier", 0.8 * lowest([1, ...multipliers]), 1.25 * highest([[1, ...multipliers]]));
    reach("wins", 0, 1.05 * highest(day.wins) || 1);
    if (prices.length > 0) reach("price", 0.8 * lowest(prices), 1.25 * highest([prices]));
    show();
  }

  function show() {
    const t = Number(slider.value), out = day.spent[t].map((x) => x >= 99);
    const when = `${clock(day.hours * t)} to ${clock(day.hours * (t + 1))}`;
    const text = `${when}, tick ${t + 1} of ${day.spend.length}`;
    at("readout").textContent = text;
    slider.setAttribute("aria-valuetext", text);
    at("tile-price").textContent = shown(day.price_of_day[t]);
    at("tile-spend").textContent = shown(sum(day.spend[t]));
    at("tile-wins").textContent = shown(sum(day.wins[t]));
    at("tile-out").textContent = `${out.filter(Boolean).length} of ${out.length}`;
    at("tile-seat").textContent = day.seat === null ? "–" : `${shown(day.spent[t][day.seat])} %`;
    at("tile-bid").textContent = day.seat === null ? "–" : shown(day.multiplier[t][day.seat]);
    model("now").location = day.hours * (t + 0.5);
    const who = day.kind.map((_, i) => i);
    const inks = { seat: colour("seat"), rival: colour("rival"), spent: colour("spent") };
    const ink = who.map((i) => (i === day.seat ? inks.seat : out[i] ? inks.spent : inks.rival));
    const marker = who.map((i) => (i === day.seat ? "diamond" : "circle"));
    const size = who.map((i) => (i === day.seat ? 15 : 7));
    for (const name of names.filter((x) => x !== "market")) {
      model(`data-${name}`).data = { who, y: day[name][t], kind: day.kind, colour: ink, marker, size };
    }
  }

  // The pictures take their colours from the page's style, which follows the reader's light or dark setting.
  function paint() {
    const quiet = colour("quiet"), line = colour("line");
    for (const name of names) {
      const plot = model(`plot-${name}`);
      for (const axis of [...plot.below, ...plot.left]) {
        Object.assign(axis, {
          axis_label_text_color: quiet, major_label_text_color: quiet, axis_line_color: line, major_tick_line_color: line,
        });
      }
      for (const grid of plot.center) if ("grid_line_color" in grid) grid.grid_line_color = line;
    }
    model("line").glyph.line_color = colour("rival");
    model("now").line_color = colour("seat");
    if (day !== null) show();
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  }

  play.addEventListener("click", () => {
    if (timer !== null) return stop();
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(() => {
      slider.value = String((Number(slider.value) + 1) % (Number(slider.max) + 1));
      show();
    }, 350);
  });
  slider.addEventListener("input", show);
  which.addEventListener("change", choose);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);

  Promise.all(names.map((name) => Bokeh.embed.embed_item(panels[name]))).then(() => {
    slider.value = "24";
    choose();
    paint();
    at("day").dataset.ready = "yes";
  });
})();
