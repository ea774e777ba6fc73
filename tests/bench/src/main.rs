//! What the stack costs beside its peers: see `README.md`.

mod machines;
mod measure;
mod node;
mod peers;
mod report;
mod rows;

use report::Printer;
use rows::{Plan, ROWS};

const USAGE: &str = "\
peerage-bench [--json] [--runs N] [--mib N] [--connections N,N] [ROW]...
  --json             an object a line instead of a table
  --runs N           rounds, each with ours and every peer once (5)
  --mib N            size of the bulk transfer of T3 (1024)
  --ours             ours alone and no output, for a profiler: T1 and T3 to T6
  --connections N,N  how many idle connections T7 holds (1000,10000)
  ROW                T1 .. T10, CAP; all if none is named";

fn main() {
    let mut args = std::env::args().skip(1).peekable();
    if args.peek().is_some_and(|first| first == rows::CHILD) {
        return rows::child(args.skip(1));
    }
    let mut plan = Plan::default();
    let mut printer = Printer { json: false };
    let mut wanted = Vec::new();
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|text| text.parse().ok()).unwrap_or_else(|| usage(&arg));
        match &*arg {
            "--json" => printer.json = true,
            "--ours" => plan.ours = true,
            "--runs" => plan.runs = number(),
            "--mib" => plan.mib = number(),
            "--connections" => {
                let list = args.next().unwrap_or_default();
                plan.connections = list.split(',').map(|text| text.parse().unwrap_or_else(|_| usage(&arg))).collect();
            }
            row => match ROWS.iter().position(|(name, _)| *name == row) {
                Some(place) => wanted.push(place),
                None => usage(row),
            },
        }
    }
    printer.heading();
    for (place, (_, run)) in ROWS.iter().enumerate() {
        if wanted.is_empty() || wanted.contains(&place) {
            run(&plan, printer);
        }
    }
}

fn usage(wrong: &str) -> ! {
    eprintln!("cannot make sense of {wrong}\n{USAGE}");
    std::process::exit(2);
}
