//! The command line: the only part that sees both the server and the client.

mod ask;
mod exit;
mod job;
mod report;
mod serve;
mod size;
mod transfer;
mod tree;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use exit::Exit;

/// Upload and download files to and from a box you own, and be certain about it.
#[derive(Debug, Parser)]
#[command(name = "ftx", version, after_help = exit::HELP)]
struct Ftx {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Put(transfer::Put),
    Get(transfer::Get),
    Stat(ask::Stat),
    Ping(ask::Ping),
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    // Writing past a limit of file sizes is an error of that write, not a silent end. A system that
    // refuses this has its own way.
    let past_the_limit = std::sync::Arc::default();
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, past_the_limit);
    let exit = match Ftx::parse().command {
        Command::Serve(serve) => match serve.run() {
            Ok(()) => Exit::Done,
            Err(error) => {
                report::say(&format!("{error:#}"));
                Exit::Serve
            }
        },
        Command::Put(put) => put.run(),
        Command::Get(get) => get.run(),
        Command::Stat(stat) => stat.run(),
        Command::Ping(ping) => ping.run(),
    };
    exit.into()
}
