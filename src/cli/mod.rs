//! The command line: the only part that sees both the server and the client.

mod ask;
mod change;
mod exit;
mod job;
mod list;
mod manual;
mod partials;
mod remote;
mod report;
mod serve;
mod size;
mod sum;
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
    Cat(transfer::Cat),
    Ls(list::Ls),
    Du(list::Du),
    Stat(ask::Stat),
    Sum(sum::Sum),
    Verify(sum::Verify),
    Mkdir(change::Mkdir),
    Mv(change::Mv),
    Rm(change::Rm),
    Partials(partials::Partials),
    Ping(ask::Ping),
    Completions(manual::Completions),
    Man(manual::Man),
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
        Command::Cat(cat) => cat.run(),
        Command::Ls(ls) => ls.run(),
        Command::Du(du) => du.run(),
        Command::Stat(stat) => stat.run(),
        Command::Sum(sum) => sum.run(),
        Command::Verify(verify) => verify.run(),
        Command::Mkdir(mkdir) => mkdir.run(),
        Command::Mv(mv) => mv.run(),
        Command::Rm(rm) => rm.run(),
        Command::Partials(partials) => partials.run(),
        Command::Ping(ping) => ping.run(),
        Command::Completions(completions) => completions.run(),
        Command::Man(man) => man.run(),
    };
    exit.into()
}
