import { raw } from 'hono/html'

/** No font, image or sheet from elsewhere. */
export const REFERENCE_STYLE = raw(`
:root { color-scheme: light dark; --ink: #1d2329; --quiet: #5b6670; --paper: #fff; --panel: #f4f6f8; --line: #d9dfe4; --accent: #0b6b5d; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9ed; --quiet: #9aa7b2; --paper: #12171c; --panel: #1a2127; --line: #2c363f; --accent: #5fd0bb; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
header, .columns { max-width: 78rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 2rem; padding-bottom: 1rem; }
header p { max-width: 46rem; margin: .4rem 0; color: var(--quiet); }
h1 { margin: 0; font-size: 1.9rem; letter-spacing: -.01em; }
a { color: var(--accent); }
.columns { display: grid; grid-template-columns: 19rem minmax(0, 1fr); gap: 2.5rem; border-top: 1px solid var(--line); }
nav { position: sticky; top: 0; align-self: start; max-height: 100vh; overflow-y: auto; padding: 1.2rem 0 2rem; font-size: .84rem; }
nav h2 { margin: 1rem 0 .3rem; font-size: .78rem; text-transform: uppercase; letter-spacing: .06em; color: var(--quiet); }
nav ul { list-style: none; margin: 0; padding: 0; }
nav a { display: block; padding: .15rem 0; color: inherit; text-decoration: none; overflow-wrap: anywhere; }
nav a:hover { color: var(--accent); }
main { padding-bottom: 4rem; }
main h2 { margin: 2.2rem 0 .2rem; font-size: 1.4rem; }
article { margin: 1.2rem 0; padding: 1rem 1.25rem; border: 1px solid var(--line); border-radius: 10px; scroll-margin-top: 1rem; }
article:target { border-color: var(--accent); }
h3 { margin: 0; font-size: 1.05rem; overflow-wrap: anywhere; }
h4 { margin: 1.1rem 0 .4rem; font-size: .82rem; text-transform: uppercase; letter-spacing: .05em; color: var(--quiet); }
article p { margin: .5rem 0; }
.note { color: var(--quiet); font-size: .88rem; }
.method { font: 600 .78em ui-monospace, monospace; color: var(--accent); }
code { font: .9em ui-monospace, monospace; }
table { width: 100%; border-collapse: collapse; font-size: .88rem; }
th, td { padding: .35rem .75rem .35rem 0; border-top: 1px solid var(--line); text-align: left; vertical-align: top; overflow-wrap: anywhere; }
th { width: 30%; font-weight: 400; }
td:nth-child(2) { width: 32%; color: var(--quiet); }
em { color: var(--accent); font-style: normal; font-size: .78rem; }
details { margin: .3rem 0; padding: .35rem .75rem; background: var(--panel); border-radius: 6px; }
summary { cursor: pointer; }
ul { margin: .4rem 0; padding-left: 1.2rem; }
@media (max-width: 56rem) {
  .columns { grid-template-columns: minmax(0, 1fr); gap: 0; }
  nav { position: static; max-height: none; }
  table, tbody, tr, th, td, td:nth-child(2) { display: block; width: auto; }
  td { border: 0; padding-top: 0; }
}
`)
