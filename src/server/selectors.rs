//! All selectors of a server: made together, run each on a thread of its own, over together.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use ftx_protocol::Algorithm;
use ftx_protocol::message::Limits;
use ftx_protocol::server::Settings;
use mio::Poll;
use tracing::info;

use super::front::{Front, Order, Seats};
use super::guest::House;
use super::key::SELECTORS_MAX;
use super::listen::Listening;
use super::mailbox::Mailbox;
use super::selector::{self, Common, Selector, Stopper};
use super::storage::{Directory, Outcomes};
use super::{Options, StartError};

pub(super) struct Selectors {
    /// The first, which takes the connections.
    front: Selector,
    others: Vec<Selector>,
    directory: Arc<Directory>,
}

impl Selectors {
    pub(super) fn new(
        listeners: Vec<Listening>,
        house: House,
        options: &Options,
    ) -> Result<Self, StartError> {
        let first_poll = Poll::new()?;
        let other_polls =
            (1..count(options)).map(|_| Poll::new()).collect::<io::Result<Vec<Poll>>>()?;
        let selectors = other_polls.len().saturating_add(1);
        let first_waker = selector::waker(&first_poll)?;
        let mut wakers = vec![Arc::clone(&first_waker)];
        for poll in &other_polls {
            wakers.push(selector::waker(poll)?);
        }
        let outcomes = Arc::new(Outcomes::new(&wakers));
        let tokens = house.gate.tokens().cloned();
        let directory = Arc::new(Directory::open(options, tokens, Arc::clone(&outcomes))?);
        let seats =
            Arc::new(Seats::new(selectors, options.connections_max, Arc::clone(&first_waker)));
        let first_orders = Arc::new(Mailbox::new(first_waker));
        let other_orders: Vec<Arc<Mailbox<Order>>> =
            wakers.into_iter().skip(1).map(|waker| Arc::new(Mailbox::new(waker))).collect();
        let front = Front::new(
            first_poll.registry(),
            listeners,
            Arc::clone(&seats),
            other_orders.clone(),
            options,
        )?;
        let settings = Arc::new(settings(options));
        let house = Arc::new(house);
        let common = Common {
            selectors,
            seats,
            directory: Arc::clone(&directory),
            outcomes,
            settings,
            house,
        };
        let others = other_polls.into_iter().zip(other_orders).enumerate();
        let others = others
            .map(|(place, (poll, orders))| {
                Selector::new(place.saturating_add(1), poll, None, orders, &common, options)
            })
            .collect();
        let front = Selector::new(0, first_poll, Some(front), first_orders, &common, options);
        Ok(Self { front, others, directory })
    }

    /// Has all of them look whose token is over. Never waits.
    pub(super) fn token_check(&self) -> impl Fn() + Send + 'static {
        let all = std::iter::once(&self.front).chain(&self.others);
        let all: Vec<Arc<Mailbox<Order>>> = all.map(Selector::orders).collect();
        move || all.iter().for_each(|orders| orders.push([Order::CheckTokens]))
    }

    pub(super) fn stopper(&self) -> Stopper {
        self.front.stopper()
    }

    #[cfg(test)]
    pub(super) fn into_front(self) -> Selector {
        self.front
    }

    /// Serves until all are over, the first of them on this thread. Where one fails, the others do
    /// not go on without it.
    pub(super) fn run(self) -> io::Result<()> {
        let Self { front, others, directory } = self;
        let stopper = front.stopper();
        let orders: Vec<_> = others.iter().map(Selector::orders).collect();
        let threads: Vec<io::Result<JoinHandle<io::Result<()>>>> = others
            .into_iter()
            .map(|selector| {
                let stopper = stopper.clone();
                Builder::new().name(selector.name()).spawn(move || {
                    let result = selector.run();
                    stopper.stop();
                    result
                })
            })
            .collect();
        if threads.iter().any(Result::is_err) {
            stopper.stop();
        }
        let mut result = front.run();
        // It has told them by now, unless it failed.
        orders.iter().for_each(|orders| orders.push([Order::Stop]));
        for thread in threads {
            result = result.and(thread.and_then(end));
        }
        if let Some(directory) = Arc::into_inner(directory) {
            directory.finish();
        }
        result
    }
}

fn end(thread: JoinHandle<io::Result<()>>) -> io::Result<()> {
    thread.join().map_err(|_| io::Error::other("it ended by a fault in the program"))?
}

/// How many selectors there are to be.
fn count(options: &Options) -> usize {
    let asked = options.threads.clamp(1, SELECTORS_MAX);
    if options.limit_rate.is_some() && asked > 1 {
        info!("one selector: whose turn it is under --limit-rate is decided in one place");
        return 1;
    }
    asked
}

/// What each connection is told, and held to.
fn settings(options: &Options) -> Settings {
    Settings {
        agent: concat!("ftx/", env!("CARGO_PKG_VERSION")).to_owned(),
        features: Algorithm::ALL.iter().map(|kind| kind.as_str().to_owned()).collect(),
        limits: Limits { file: options.size_max_bytes, ..Limits::default() },
        requests_total_max: options.requests_max,
        header_timeout: options.header_timeout,
        idle_timeout: options.idle_timeout,
    }
}
