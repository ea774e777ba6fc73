//! The `peerage` binary: parses the command line, does what it says, exits with what came of it.

use clap::Parser;
use peerage::{
    cli::{Cli, Command},
    commands::{self, CliError},
};
use std::{io::Write, process::ExitCode};

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&CliError::Io(error)),
    };
    let mut out = std::io::stdout();
    let result = match Cli::parse().command {
        Command::Client(command) => runtime.block_on(commands::execute(command, &mut out)).map(|()| true),
        Command::Run(args) => runtime.block_on(commands::run::execute(*args)).map(|()| true),
        Command::Devnet(args) => runtime.block_on(commands::devnet::execute(args, &mut out)).map_err(CliError::from),
        Command::Verify(args) => commands::verify::execute(&args, &mut out),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE, // what is wrong is in the output
        Err(error) => failed(&error),
    }
}

fn failed(error: &CliError) -> ExitCode {
    // Standard error may be a file on a full disk: then the exit code alone says it.
    let _ = writeln!(std::io::stderr(), "peerage: {error}");
    error.exit_code()
}
