// What would keep somebody out who does not see a page, or not well (of WCAG 2.2: 1.1.1, 1.3.1, 1.4.3, 2.4.6, 4.1.2): names,
// landmarks, the order of headings, contrast. A function for the browser, which gives a list of faults.
() => {
  const faults = [];
  const say = (what, node) => faults.push(what + ': ' + node.outerHTML.slice(0, 120));
  const named = (node) => (node.textContent.trim() || node.getAttribute('aria-label') || '').trim();
  if (!document.documentElement.lang) faults.push('no language');
  if (document.querySelectorAll('h1').length !== 1) faults.push('not one h1');
  if (document.querySelectorAll('main').length !== 1) faults.push('not one main');
  for (const node of document.querySelectorAll('input:not([type=hidden]), select, textarea'))
    if (!node.labels.length || !named(node.labels[0])) say('no label', node);
  for (const node of document.querySelectorAll('button, a, summary')) if (!named(node)) say('no name', node);
  for (const node of document.querySelectorAll('img')) if (!node.alt) say('no text', node);
  for (const node of document.querySelectorAll('svg')) if (!node.getAttribute('aria-label')) say('no text', node);
  for (const node of document.querySelectorAll('table')) if (!node.caption) say('no caption', node);
  for (const node of document.querySelectorAll('th')) if (!node.scope) say('no scope', node);
  for (const node of document.querySelectorAll('nav')) if (!node.getAttribute('aria-label')) say('no label', node);
  for (const node of document.querySelectorAll('[aria-describedby], [aria-labelledby]'))
    for (const id of (node.getAttribute('aria-describedby') ?? node.getAttribute('aria-labelledby')).split(' '))
      if (!document.getElementById(id)) say('nothing has the id ' + id, node);
  let level = 0;
  for (const node of document.querySelectorAll('h1, h2, h3')) {
    if (+node.tagName[1] > level + 1) say('a level is left out', node);
    level = +node.tagName[1];
  }
  const parts = (color) => color.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const back = (node) => {
    for (; node; node = node.parentElement) {
      const color = parts(getComputedStyle(node).backgroundColor);
      if (color.length < 4 || color[3]) return color;
    }
    return [255, 255, 255];
  };
  for (const node of document.querySelectorAll('main *, header *')) {
    if (![...node.childNodes].some(child => child.nodeType === 3 && child.data.trim()) || !node.checkVisibility()) continue;
    const [a, b] = [light(parts(getComputedStyle(node).color)), light(back(node))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) say('too little contrast, ' + ((a + .05) / (b + .05)).toFixed(1), node);
  }
  return faults;
}
