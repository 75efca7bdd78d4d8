//! The command line: the only part that sees both the server and the client.

mod activation;
mod admission;
mod ask;
mod change;
mod choice;
mod confine;
mod directory;
mod exit;
mod identity;
mod job;
mod list;
mod log;
mod login;
mod manual;
mod output;
mod partials;
mod progress;
mod remote;
mod report;
mod serve;
mod shell;
mod signals;
mod size;
mod state;
mod sum;
mod terminal;
mod token;
mod transfer;
mod tree;
mod user;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ftx_disk::failure::plain;

use exit::Exit;
use remote::Clients;

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
    Login(login::Login),
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
    Shell(shell::Shell),
    Partials(partials::Partials),
    Ping(ask::Ping),
    Token(token::Token),
    Completions(manual::Completions),
    Man(manual::Man),
}

/// An error with its causes.
fn in_words(error: &anyhow::Error) -> String {
    let words =
        error.chain().map(|cause| cause.downcast_ref().map_or_else(|| cause.to_string(), plain));
    words.collect::<Vec<_>>().join(": ")
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    // Writing past a limit of file sizes is an error of that write, not a silent end. A system that
    // refuses this has its own way.
    let past_the_limit = std::sync::Arc::default();
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, past_the_limit);
    let command = match Ftx::try_parse() {
        Ok(ftx) => ftx.command,
        Err(error) if error.use_stderr() => error.exit(),
        // What was asked for: the help, or the version.
        Err(told) => return report::told(told.print()).into(),
    };
    let exit = match command {
        Command::Serve(serve) => match serve.run() {
            Ok(()) => Exit::Done,
            Err(error) => {
                report::say(&in_words(&error));
                Exit::Serve
            }
        },
        Command::Login(login) => login.run(&Clients::new()),
        Command::Put(put) => put.run(&Clients::new()),
        Command::Get(get) => get.run(&Clients::new()),
        Command::Cat(cat) => cat.run(&Clients::new()),
        Command::Ls(ls) => ls.run(&Clients::new()),
        Command::Du(du) => du.run(&Clients::new()),
        Command::Stat(stat) => stat.run(&Clients::new()),
        Command::Sum(sum) => sum.run(&Clients::new()),
        Command::Verify(verify) => verify.run(&Clients::new()),
        Command::Mkdir(mkdir) => mkdir.run(&Clients::new()),
        Command::Mv(mv) => mv.run(&Clients::new()),
        Command::Rm(rm) => rm.run(&Clients::new()),
        Command::Ping(ping) => ping.run(&Clients::new()),
        Command::Shell(shell) => shell.run(Clients::new().keeping()),
        Command::Partials(partials) => partials.run(),
        Command::Token(token) => token.run(),
        Command::Completions(completions) => completions.run(),
        Command::Man(man) => man.run(),
    };
    exit.into()
}
