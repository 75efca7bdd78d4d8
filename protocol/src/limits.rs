//! Every limit of ftx/1, with its unit in its name and its reason beside it.
//!
//! The first part is the guaranteed minimum: each server grants at least that, so a client may
//! send before it has read `welcome`, which only ever raises a limit. protocol.md prints this
//! table; a test compares the two.

use std::time::Duration;

/// A message line with its `\n`. Holds the longest legal name in base64 several times over.
pub const LINE_BYTES: usize = 32 * 1024;

/// The first line of a client, with its `\n`. A token and the longest agent fit, with room for
/// fields to come. Nobody is known yet, and there may be thousands who never say more than half of it.
pub const HELLO_BYTES: usize = 4 * 1024;

/// The raw bytes of one `data` message. Large enough that the header is noise, small enough that
/// other lines get through between two parts within milliseconds.
pub const PART_BYTES: u64 = 1024 * 1024;

/// Requests without their final reply on one connection. Enough to fill a long link with small
/// files, small enough to bound what a client can make a server remember.
pub const REQUESTS: usize = 4_096;

/// Files of gets that one connection has open at a server; the others wait their turn. Enough to
/// have the next one ready, and for small ones to be answered several in one go; no more, because
/// each holds a descriptor beside those that there are.
pub const GETS_OPEN: usize = 8;

/// Bytes of a file that storage may hand over whole when it is opened: below this the steps between
/// opening a file and closing it cost more than its bytes.
pub const WHOLE_BYTES: u64 = 64 * 1024;

/// `entries` of a list that are sent without being asked for by `more`: enough to fill a long link
/// with names, small enough that a client which is busy with the files need not hold many.
pub const ENTRIES_AHEAD: u32 = 16;

/// What a request costs a server besides its name, until its final reply.
pub const REQUEST_BYTES: usize = 256;

/// The grid of durable offsets. Both sides keep their running digest at the same points. A
/// multiple of it is what `kept` and `held` may name, besides 0 and the size of the file.
pub const GRID_BYTES: u64 = 8 * 1024 * 1024;

/// A body of known size below this is not kept when its connection ends: sending it again is
/// cheaper than remembering it.
pub const RESUMABLE_BYTES: u64 = GRID_BYTES;

/// What a client may have sent past the last `kept`, of a body that it wants to resume. This is
/// what a cut can cost, so it is also the end of what one stream can have in flight.
pub const UNKEPT_BYTES: u64 = 3 * GRID_BYTES;

/// Raw bytes of bodies that were refused, or that nobody asked for, read and thrown away on one
/// connection since something of a put was last kept or stored. Past it the connection is closed: a refusal
/// should not cost more than reconnecting.
pub const DISCARD_BYTES: u64 = 64 * 1024 * 1024;

/// A name, all parts and slashes (Linux `PATH_MAX` less its NUL).
pub const NAME_BYTES: usize = 4_095;

/// One part of a name (`NAME_MAX` of every common file system).
pub const NAME_PART_BYTES: usize = 255;

/// Parts of a name. Each but the last is a directory that a put may have to make, one after the other, and sync.
/// Trees of people and of programs have a few dozen at most.
pub const NAME_PARTS: usize = 128;

/// The opaque text of a version.
pub const VERSION_BYTES: usize = 64;

/// The text of `agent`, and of `message` in an error.
pub const TEXT_BYTES: usize = 1_024;

/// Words of `need` that a refusal repeats.
pub const NEED_WORDS: usize = 16;

/// Any integer on the wire. The largest that every JSON library keeps exactly.
pub const INTEGER_MAX: u64 = (1 << 53) - 1;

/// While a server owes an answer it sends something at least this often.
pub const ALIVE_EVERY: Duration = Duration::from_secs(5);

/// A client that is owed an answer and has read nothing for this long gives the connection up.
pub const SILENCE: Duration = Duration::from_secs(30);

/// The slowest rate at which an announced part may be filled, while the receiver reads.
pub const PART_BYTES_PER_SECOND_MIN: u64 = 1_024;

/// The slowest rate at which a client may read what the server has to say, beyond the idle timeout.
/// A client that reads a byte now and then would hold a file and a connection for ever.
pub const READ_BYTES_PER_SECOND_MIN: u64 = 1_024;

/// Requests that a client may break off within [`CANCELLED_WITHIN`], before storage is known to have
/// begun with them: they are over at once, so their work is not bounded by [`REQUESTS`]. A client
/// breaks off a few; nobody but an attacker does it as fast as lines can be sent.
pub const CANCELLED: u32 = 1_000;

/// See [`CANCELLED`].
pub const CANCELLED_WITHIN: Duration = Duration::from_secs(60);

/// Requests of one connection in all, if the server is not told otherwise. Enough for a tree of a
/// million files; whoever has more reconnects, and is looked at anew.
pub const REQUESTS_TOTAL: u64 = 1_000_000;

/// After a fatal error the server goes on reading for at most this long, so that the error is not
/// lost to a reset, and then closes.
pub const LINGER: Duration = Duration::from_secs(2);

/// After a fatal error the server throws away at most this many bytes before it closes.
pub const LINGER_BYTES: u64 = 16 * 1024 * 1024;

/// Replies waiting to be written. Past it the server stops reading requests until the client has
/// read some.
pub const REPLY_QUEUE_BYTES: usize = 256 * 1024;

const _: () = {
    assert!(TEXT_BYTES * 2 < HELLO_BYTES && HELLO_BYTES < LINE_BYTES);
    assert!(NAME_BYTES * 4 / 3 * 2 < LINE_BYTES, "a name in base64 fits a line");
    assert!(GRID_BYTES.is_multiple_of(PART_BYTES), "parts end on the grid");
    assert!(UNKEPT_BYTES.is_multiple_of(GRID_BYTES));
    assert!(WHOLE_BYTES <= PART_BYTES, "a file that is handed over whole is one part");
    assert!(UNKEPT_BYTES + GRID_BYTES <= 32 * 1024 * 1024, "a cut costs at most 32 MiB");
};
