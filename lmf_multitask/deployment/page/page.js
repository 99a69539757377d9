"use strict";

const get = (id) => document.getElementById(id);
let answer = null; // of the last request
let row = 0; // the clip of it that is shown
let asked = 0; // so that a late answer never replaces a newer one
let samples = [];
let thresholds = {}; // emotion -> probability above which it counts as present

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function showMessage(text, bad = false) {
  get("message").textContent = text;
  get("message").classList.toggle("bad", bad);
}

function percent(probability) {
  return `${(100 * probability).toFixed(1)} %`;
}

// names of the modalities that one clip lacks
function lacking(clip) {
  return Object.entries(answer.missing_in).filter(([, clips]) => clips.includes(clip)).map(([name]) => name);
}

function bar(emotion, index) {
  const probability = answer.probabilities[row][index];
  const threshold = thresholds[emotion] ?? 0.5;
  const present = answer.present[row][index];
  const item = element("li", present ? "present" : "");
  const name = element("div", "name");
  name.append(element("span", "", emotion), element("span", "value", `${percent(probability)}${present ? ", present" : ""}`));
  const track = element("div", "track");
  track.setAttribute("role", "meter");
  track.setAttribute("aria-label", emotion);
  track.setAttribute("aria-valuemin", "0");
  track.setAttribute("aria-valuemax", "100");
  track.setAttribute("aria-valuenow", (100 * probability).toFixed(1));
  const fill = element("div", "fill");
  fill.style.width = `${100 * probability}%`;
  const limit = element("div", "limit");
  limit.style.left = `${100 * threshold}%`;
  track.append(fill, limit);
  item.append(name, track);
  return item;
}

function show() {
  const count = answer ? answer.probabilities.length : 0;
  for (const id of ["bars", "gaps", "verdict"]) get(id).replaceChildren();
  get("pager").hidden = count < 2;
  get("legend").hidden = count === 0;
  for (const line of document.querySelectorAll("#clips tbody tr")) line.classList.toggle("chosen", line.sectionRowIndex === row);
  if (count === 0) return;
  get("position").textContent = `clip ${row + 1} of ${count}`;
  get("previous").disabled = row === 0;
  get("next").disabled = row === count - 1;
  get("bars").append(...answer.emotions.map(bar));
  Object.entries(answer.values || {}).forEach(([task, values]) => {
    const name = element("div", "name");
    name.append(element("span", "", task), element("span", "value", values[row].toFixed(3)));
    const item = element("li", "");
    item.append(name);
    get("bars").append(item);
  });
  if (answer.decided) {
    const { emotion, probability } = answer.decided[row];
    get("verdict").append("Decided emotion: ", element("strong", "", emotion), ` (${percent(probability)} if exactly one is present)`);
  }
  const gaps = lacking(row);
  get("gaps").textContent = gaps.length ? `Without ${gaps.join(" and ")}: missing in this clip.` : "All modalities are there.";
}

// a table of all clips of a file
function list() {
  const count = answer ? answer.probabilities.length : 0;
  const values = Object.entries(answer?.values || {});
  get("clips").hidden = count < 2;
  if (count < 2) return;
  const heads = ["clip", ...(answer.decided ? ["decided"] : []), ...answer.emotions, ...values.map(([task]) => task), "missing"];
  const head = element("tr");
  head.append(...heads.map((text) => Object.assign(element("th", "", text), { scope: "col" })));
  get("heads").replaceChildren(head);
  get("rows").replaceChildren(...answer.probabilities.map((probabilities, number) => {
    const line = element("tr");
    const open = element("button", "", `${number + 1}`);
    open.type = "button";
    open.setAttribute("aria-label", `show clip ${number + 1}`);
    open.addEventListener("click", () => { row = number; show(); get("output").scrollIntoView({ block: "nearest" }); });
    const first = element("td");
    first.append(open);
    const cells = [
      ...(answer.decided ? [answer.decided[number].emotion] : []),
      ...probabilities.map(percent),
      ...values.map(([, column]) => column[number].toFixed(3)),
      lacking(number).join(", ") || "–",
    ].map((text) => element("td", "", text));
    line.append(first, ...cells);
    return line;
  }));
}

// missing modalities: " (without video; 2 of 3 clips without text)"
function gaps(found) {
  const clips = found.probabilities.length;
  const parts = Object.entries(found.missing)
    .filter(([, count]) => count > 0)
    .map(([modality, count]) => (count === clips ? `without ${modality}` : `${count} of ${clips} clips without ${modality}`));
  return parts.length ? ` (${parts.join("; ")})` : "";
}

async function predict(content, type, what) {
  const mine = ++asked;
  showMessage(`Predicting ${what} …`);
  let found = null;
  let problem = "";
  try {
    const body = await content();
    const response = await fetch("/predict", { method: "POST", headers: { "Content-Type": type }, body });
    const reply = await response.json();
    if (response.ok) found = reply;
    else problem = reply.error;
  } catch {
    problem = "The service does not answer. Is it still running?";
  }
  if (mine !== asked) return;
  answer = found;
  row = 0;
  if (found) showMessage(`Probabilities for ${what}${gaps(found)}:`);
  else showMessage(problem, true);
  list();
  show();
  get("result").scrollIntoView({ block: "nearest" }); // on a phone it is below the choice
}

function takeFile(file) {
  if (!file) return;
  get("sample").value = "";
  predict(async () => file, "application/x-npz", file.name);
}

async function start() {
  get("sample").addEventListener("change", () => {
    const number = Number(get("sample").value);
    const chosen = samples[number - 1];
    if (!chosen) return;
    const label = `${chosen.name} (drawn as ${chosen.emotion})`;
    const clip = async () => JSON.stringify((await (await fetch(`/samples/${number}`)).json()).clip);
    predict(clip, "application/json", label);
  });
  get("file").addEventListener("change", () => {
    takeFile(get("file").files[0]);
    get("file").value = ""; // the same file may be chosen again
  });
  for (const event of ["dragenter", "dragover"]) {
    addEventListener(event, (e) => { // anywhere on the page: a near miss must not open the file instead
      e.preventDefault();
      get("drop").classList.add("over");
    });
  }
  for (const event of ["dragleave", "drop"]) addEventListener(event, () => get("drop").classList.remove("over"));
  addEventListener("drop", (e) => {
    e.preventDefault();
    takeFile(e.dataTransfer.files[0]);
  });
  get("previous").addEventListener("click", () => { row -= 1; show(); });
  get("next").addEventListener("click", () => { row += 1; show(); });

  try {
    const model = await (await fetch("/model")).json();
    thresholds = model.thresholds;
    for (const [name, input] of Object.entries(model.inputs)) {
      get("expects").append(element("li", "", `${name}: [clips, ${input.shape.slice(1).join(", ")}]`));
    }
    get("about").textContent = `Low-rank Multimodal Fusion, ${model.emotions.length} tasks, ${model.settings.backend} on ${model.settings.device}`;
    samples = (await (await fetch("/samples")).json()).samples;
    samples.forEach((sample, index) => {
      const option = element("option", "", `${sample.name} – drawn as ${sample.emotion}`);
      option.value = index + 1;
      get("sample").append(option);
    });
    get("samples").hidden = samples.length === 0;
    const wanted = new URLSearchParams(location.search).get("sample"); // a link to one of them: /?sample=3
    if (samples[wanted - 1]) {
      get("sample").value = Number(wanted);
      get("sample").dispatchEvent(new Event("change"));
    }
  } catch {
    showMessage("The service does not answer. Is it still running?", true);
  }
}

start();
