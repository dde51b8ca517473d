//! The beginning and the end of every page.

/// The head with the style, for light and dark.
pub const HEAD: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>xenstored under load</title>
<style>
:root { color-scheme: light dark;
  --ground: #fbfbf9; --card: #fff; --ink: #1d2129; --soft: #616a78; --rule: #e3e5e8;
  --ours: #2563c9; --c: #d9702b; --ocaml: #3a9a5c; --echo: #9aa1ac; --socket: #8b5cc7;
  --good: #23804a; --bad: #c03434; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #14161a; --card: #1b1e24; --ink: #e6e8ec; --soft: #98a1b0; --rule: #2d323b;
  --ours: #6ea2ff; --c: #f0975a; --ocaml: #66c98a; --echo: #788292; --socket: #b794f0;
  --good: #66c98a; --bad: #ff7a7a; } }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1rem 4rem; background: var(--ground);
  color: var(--ink); font: 15px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 0 0 .3rem; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 1.1rem 1.3rem; margin: 1.2rem 0; }
.about { color: var(--soft); margin: 0 0 .8rem; max-width: 50rem; }
.legend span { margin-right: 1.2rem; } .legend i { display: inline-block; width: .8em;
  height: .8em; border-radius: 3px; margin-right: .4em; }
.legend { position: sticky; top: 0; z-index: 1; background: var(--ground); margin: .6rem 0;
  padding: .4rem 0; border-bottom: 1px solid var(--rule); } .legend small { color: var(--soft); }
nav { line-height: 1.9; } nav a { color: var(--ours); margin-right: .7rem; white-space: nowrap; }
section { scroll-margin-top: 4rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr));
  gap: 1.2rem; margin-bottom: 1rem; }
summary { cursor: pointer; margin-bottom: .8rem; }
svg { width: 100%; max-width: 32rem; height: auto; }
svg text { font-size: 11.5px; fill: var(--soft); }
svg text.title { font-size: 12.5px; font-weight: 600; fill: var(--ink); }
.range { stroke: var(--ink); stroke-width: 1; fill: none; opacity: .75; }
.grid { stroke: var(--rule); stroke-width: 1; } .line { fill: none !important; stroke-width: 2; }
.ours { fill: var(--ours); stroke: var(--ours); background: var(--ours); }
.c { fill: var(--c); stroke: var(--c); background: var(--c); }
.ocaml { fill: var(--ocaml); stroke: var(--ocaml); background: var(--ocaml); }
.echo { fill: var(--echo); stroke: var(--echo); background: var(--echo); }
.socket { fill: var(--socket); stroke: var(--socket); background: var(--socket); }
.line.c { stroke-dasharray: 7 3; } .line.ocaml { stroke-dasharray: 2 3; }
rect { stroke: none; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .6rem; text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
td:nth-child(1), td:nth-child(2) { text-align: left; }
tr.begins td { border-top: 1px solid var(--rule); padding-top: .35rem; }
td small { display: block; color: var(--soft); font-size: 11px; line-height: 1.2; }
em.note { color: var(--bad); font-style: normal; }
.notes { color: var(--soft); padding-left: 1.2rem; margin: .6rem 0 0; overflow-wrap: anywhere;
  white-space: pre-wrap; }
.goals { list-style: none; padding: 0; margin: 0; } .reached b { color: var(--good); }
.missed b { color: var(--bad); } .undecided b { color: var(--soft); }
.headline { font-size: 1.05rem; margin: .2rem 0; max-width: 50rem; } .worse { color: var(--bad); }
.builds { margin: 0 0 .8rem; } .builds small { color: var(--soft); } code { font-size: .92em;
  overflow-wrap: anywhere; }
@media (max-width: 40rem) { body { padding: 1rem .6rem 3rem; } section { padding: .8rem .7rem; }
  .legend small { display: none; } }
</style></head><body>
"#;

/// The foot, which explains the figures.
pub const FOOT: &str = "<p class=\"about\">Figures are medians of the rounds, below each and on \
                        the bars the least and the most of them; k are thousands, M millions, us \
                        microseconds. CPU is the daemon's own, of all its threads but the \
                        simulated host's, by the scheduler's count; user and system are its parts \
                        by the kernel's clock. Latencies of a closed loop count from sending; at a \
                        fixed rate, from the time for which the request was \
                        scheduled.</p></body></html>\n";
