// What is marked data-live is fetched anew every few seconds: ticks, what is being typed and the focus stay where they are.
"use strict";
(() => {
  const seconds = 10;
  const button = document.getElementById("refresh");
  const note = document.getElementById("refreshed");
  if (!button || !document.querySelector("[data-live]")) return;
  let isOn = localStorage.getItem("refresh") !== "off";
  let isBusy = false;

  const show = () => {
    button.hidden = false;
    button.textContent = isOn ? "Stop refreshing" : `Refresh every ${seconds} seconds`;
  };
  button.addEventListener("click", () => {
    isOn = !isOn;
    localStorage.setItem("refresh", isOn ? "on" : "off");
    show();
  });

  const isTyping = () => {
    const field = document.activeElement;
    return field && field.matches("[data-live] input:not([type=checkbox]), [data-live] select");
  };
  const address = new URL(location.href);
  if (address.searchParams.has("done")) {
    address.searchParams.delete("done");
    history.replaceState(null, "", address);
  }

  const refresh = async () => {
    if (!isOn || isBusy || document.hidden || isTyping() || !document.getSelection().isCollapsed) return;
    isBusy = true;
    try {
      const answer = await fetch(address, { headers: { "X-Board-Refresh": "1" }, redirect: "error" });
      if (answer.status === 401) {
        isOn = false;
        note.textContent = "Your session has ended: load the page anew to log in.";
        return;
      }
      if (!answer.ok) throw new Error(String(answer.status));
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (isTyping()) return;
      for (const old of document.querySelectorAll("[data-live]")) {
        const fresh = page.getElementById(old.id);
        if (!fresh) continue;
        const ticked = new Set([...old.querySelectorAll("input:checked")].map((one) => one.id));
        const typed = new Map([...old.querySelectorAll("input[name=note], input[name=to]")].map((one, n) => [n, one.value]));
        const places = [...old.querySelectorAll("a, button, input, select, summary")];
        const place = places.indexOf(document.activeElement);
        const same = place < 0 ? "" : key(places[place]);
        old.replaceWith(document.adoptNode(fresh));
        for (const id of ticked) {
          const box = document.getElementById(id);
          if (box) box.checked = true;
        }
        [...fresh.querySelectorAll("input[name=note], input[name=to]")].forEach((one, n) => { one.value = typed.get(n) ?? one.value; });
        if (place >= 0) {
          const now = [...fresh.querySelectorAll("a, button, input, select, summary")];
          (now.find((one) => key(one) === same) ?? document.getElementById("main")).focus({ preventScroll: true });
        }
      }
      if (document.title !== page.title) document.getElementById("said").textContent = page.title;
      document.title = page.title;
      note.textContent = "";
    } catch {
      note.textContent = "The board does not answer: what is shown is what was last known.";
    } finally {
      isBusy = false;
    }
  };
  const key = (one) => [one.tagName, one.id, one.name, one.value, one.getAttribute("href"), one.getAttribute("formaction")].join("|");

  show();
  setInterval(refresh, seconds * 1000);
})();
