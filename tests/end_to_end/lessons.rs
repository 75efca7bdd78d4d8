//! How tools of this kind were broken, each as a test of this one. What is tested elsewhere is not
//! tested here again; this is where each is.
//!
//! | how it was broken | test |
//! |---|---|
//! | a path is checked, and then used | disk `scoped::symlink_raced_between_check_and_use`, `names::no_race_of_a_directory_with_a_symlink_leads_outside` |
//! | a temporary or backup directory of the peer's choice | [`no_peer_sets_a_temporary_path`], `bad_input::nobody_reaches_the_staging_directory_or_anything_outside_by_any_spelling` |
//! | links that write outside, or give away what is there | [`no_link_is_made_or_followed_out`], disk `scoped::scoped_token_follows_no_link_out`; the client makes none: `trees` |
//! | the server chooses names on the client's disk | [`client_writes_only_names_it_asked_for`], `liars::a_name_from_a_server_is_never_written_to`, `hostile_trees::a_listing_that_contradicts_itself_is_told_and_writes_nothing_it_should_not`, `trees::a_symlink_in_the_target_leads_nowhere_outside` |
//! | a check of names is lost on one of several ways | protocol `name` (one type, which only its parser makes) and `names::random_names_keep_the_rules`, fuzz target `name` |
//! | files that matter, with bits that matter | [`setuid_and_dotfiles`], `transfer::permissions_and_times_travel_and_setuid_does_not` |
//! | archives that are unpacked | [`no_archive_is_read`] |
//! | escapes in names move the terminal | [`names_cannot_move_the_terminal_or_the_log`], `token::names_cannot_move_the_terminal_or_the_log` |
//! | a newline in a name is a line of the protocol, or of the log | `locked::audit::names_stay_on_their_line_in_the_log`, protocol `line`, `transfer::checksum_lines_are_what_sha256sum_checks` |
//! | secrets on the command line or in the log | `locked::audit::secret_is_never_on_argv_or_in_a_log`, `login::secret_is_never_on_argv_or_in_what_is_said`, `token::nobody_else_gets_at_what_is_kept_and_no_secret_is_kept` |
//! | lengths that are negative, too long, or not held to | [`declared_length_is_the_law`], `bad_input::bodies_that_lie_are_refused_and_leave_nothing`, `liars::bodies_that_are_shorter_longer_or_elsewhere_than_announced_are_no_file` |
//! | cleaning up after a failure removes something else | [`cleanup_stays_inside`], disk `on_disk::trash::no_race_of_a_directory_with_a_symlink_sweeps_what_is_outside` |
//! | a dangling link makes a file outside | [`dangling_link_creates_nothing_outside`], `names::symlinks_that_lead_nowhere_or_in_a_circle_are_answered` |
//! | another verb of the same thing is not checked | `locked::rights::every_operation_needs_its_right`, `locked::rights::the_other_verb_is_checked_too` |
//! | a server that only reads makes empty files | [`read_only_server_creates_nothing`], `locked::opening::authorize_comes_before_open`, `locked::opening::whoever_may_not_write_leaves_no_file` |
//! | to stall before the login holds a place | `locked::doors::stall_before_login_ends_by_its_deadline`, and `slow` for what comes later |
//! | the peer sets limits; 0 is without limit | [`peer_sets_no_knob`], [`nothing_is_unlimited_by_a_nought`] |
//! | quadratic work | [`no_quadratic_input`] |
//! | memory that is not initialised, or overflows | [`no_unsafe_code_but_in_one_module`], and the fuzz targets |
//! | forwarded addresses are believed | [`forwarded_addresses_are_not_believed`], `locked::transport::no_first_byte_opens_a_plain_conversation` |
//! | a rule by name fails open | there are no rules by name or address; tokens: `locked::opening::broken_tokens_file_opens_nothing` |
//! | a share outlives what was shared | `locked::ownership::removed_token_with_reused_name_is_another`: a token is its making, not its name |
//! | paths of Windows | not served there; elsewhere these are names as all others: `names::names_that_only_look_like_the_staging_directory_are_names_like_any_other` |
//! | TLS that verifies nothing | `login::tls_is_verified`, `login::a_certificate_is_good_if_the_roots_of_the_system_say_so_for_this_host`, `login::no_silent_plaintext`, `login::an_unknown_server_in_a_script_is_refused_and_a_login_says_what_it_was` |
//! | commands and hooks are run; tokens cannot be taken back | there are none; `locked::leases::right_lost_ends_at_next_request` |
//! | everything in front of the login is open to everybody | `locked::transport::without_a_token_or_with_a_wrong_one_nothing_behind_hello_has_an_effect`, fuzz targets `line` and `server_machine` |

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::front::{Front, own_certificate};
use crate::harness::{MIB, PATIENCE, Server, World, not_tested, run_to_its_end, text, until};
use crate::hostile_trees::{entry, liar_listing};
use crate::locked::house::{FTX, House, put, word};
use crate::talk::{HELLO_DIGEST, Talk};

const ALL: &str = "read,list,write,replace,delete";

/// An address that is nobody's.
const FAR_AWAY: &str = "203.0.113.9";

/// Asks, with all of the body when it is a put, and returns what came of it.
fn answer<S: Read + Write>(talk: &mut Talk<S>, message: &Value) -> String {
    talk.say(message.clone());
    if let Some(id) = message["put"]["id"].as_u64() {
        talk.part(id, 0, b"hello");
        talk.say(json!({"end": {"id": id, "size": 5, "digest": HELLO_DIGEST}}));
    }
    loop {
        let (line, _) = talk.past_parts();
        match word(&line).as_str() {
            "file" | "entries" => {}
            word => return word.to_owned(),
        }
    }
}

/// Modes, and bytes or targets.
type Tree = BTreeMap<PathBuf, (u32, Vec<u8>)>;

/// All that is below a directory, but for what a server keeps there.
fn tree(directory: &Path) -> Tree {
    fn walk(directory: &Path, tree: &mut Tree) {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.ends_with(".ftx") {
                continue;
            }
            let metadata = path.symlink_metadata().unwrap();
            let bytes = match metadata.file_type() {
                kind if kind.is_dir() => Vec::new(),
                kind if kind.is_symlink() => {
                    fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
                }
                _ => fs::read(&path).unwrap(),
            };
            tree.insert(path.clone(), (metadata.permissions().mode(), bytes));
            if metadata.is_dir() {
                walk(&path, tree);
            }
        }
    }
    let mut all = Tree::new();
    walk(directory, &mut all);
    all
}

/// A directory that nobody is to change, not even for a moment and back again: what it has, and when it and all of that
/// was changed.
fn untouched(directory: &Path) -> (Tree, Vec<[i64; 4]>) {
    let tree = tree(directory);
    let times = [directory].into_iter().chain(tree.keys().map(PathBuf::as_path)).map(|path| {
        let seen = path.symlink_metadata().unwrap();
        [seen.mtime(), seen.mtime_nsec(), seen.ctime(), seen.ctime_nsec()]
    });
    let times = times.collect();
    (tree, times)
}

/// A directory beside the served one, with something in it.
fn outside(world: &World) -> PathBuf {
    let outside = world.home.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    outside
}

#[test]
fn no_peer_sets_a_temporary_path() {
    let house = House::locked();
    let outside = outside(&house.world);
    fs::create_dir(house.world.served().join("mine")).unwrap();
    fs::write(house.world.served().join("mine/file"), "as it was").unwrap();
    let (before, beside) = (tree(&house.world.served()), untouched(&outside));
    let absolute = format!("{}/x", outside.display());
    let names = [
        ".ftx",
        ".ftx/x",
        ".ftx/staging/x",
        "/tmp/x",
        &absolute,
        "../outside/x",
        "mine/../../outside/x",
        "mine/../.ftx/x",
        "mine/./x",
    ];
    let scoped = house.add_with("scoped", ALL, &["--under", "mine"]);
    for (token, codes) in [
        (house.add("alice", ALL), &["bad_name", "reserved_name"][..]),
        (scoped, &["bad_name", "reserved_name", "denied"]),
    ] {
        let mut talk = house.talk(&token);
        for (round, name) in names.iter().enumerate() {
            let id = |number| 10 * round as u64 + number;
            for message in [
                put(id(1), name, 5, id(1)),
                json!({"mkdir": {"id": id(2), "name": name, "parents": "make"}}),
                json!({"move": {"id": id(3), "name": "mine/file", "to": name}}),
                json!({"move": {"id": id(4), "name": name, "to": "mine/new"}}),
                json!({"remove": {"id": id(5), "name": name, "depth": "all"}}),
            ] {
                let code = answer(&mut talk, &message);
                assert!(codes.contains(&code.as_str()), "{message}: {code}");
            }
        }
        // What other servers would take for such a directory has no meaning; and none can be wanted.
        let mut asks = put(101, "mine/file", 5, 101);
        for word in ["temp-dir", "tempDir", "partial-dir", "backup", "backup-dir", "cwd", "root"] {
            asks["put"][word] = json!(outside);
        }
        asks["put"]["need"] = json!(["temp-dir"]);
        assert_eq!(answer(&mut talk, &asks), "unknown_need");
        assert_eq!(tree(&house.world.served()), before);
    }
    let mut talk = house.talk(&house.add("bob", ALL));
    let mut asks = put(1, "mine/new", 5, 201);
    asks["put"]["temp-dir"] = json!(outside);
    assert_eq!(answer(&mut talk, &asks), "done");
    assert_eq!(house.names(), ["mine", "mine/file", "mine/new"]);
    assert_eq!(untouched(&outside), beside);
}

#[test]
fn no_link_is_made_or_followed_out() {
    let house = House::locked();
    let outside = outside(&house.world);
    let served = house.world.served();
    for directory in ["mine/inner", "other"] {
        fs::create_dir_all(served.join(directory)).unwrap();
    }
    fs::write(served.join("other/secret"), "secret").unwrap();
    fs::write(served.join("mine/file"), "as it was").unwrap();
    fs::write(served.join("mine/inner/secret"), "its own").unwrap();
    let links = ["to-sibling", "by-the-root", "to-outside", "absolute"];
    symlink("../other", served.join("mine/to-sibling")).unwrap();
    symlink(served.join("other"), served.join("mine/by-the-root")).unwrap();
    symlink("../../outside", served.join("mine/to-outside")).unwrap();
    symlink(&outside, served.join("mine/absolute")).unwrap();
    symlink("inner", served.join("mine/within")).unwrap();
    let (before, beside) = (tree(&served), untouched(&outside));
    let scoped = house.add_with("scoped", ALL, &["--under", "mine"]);
    // Whoever may be everywhere may go to a sibling, and not outside either.
    let everywhere = house.add("everywhere", ALL);
    for (token, links) in [(&scoped, &links[..]), (&everywhere, &links[2..])] {
        let mut talk = house.talk(token);
        for (round, link) in links.iter().enumerate() {
            let id = |number| 20 * round as u64 + number;
            let at = |name: &str| format!("mine/{link}/{name}");
            for message in [
                json!({"stat": {"id": id(1), "name": format!("mine/{link}")}}),
                json!({"stat": {"id": id(2), "name": at("secret")}}),
                json!({"stat": {"id": id(3), "name": at("secret"), "digest": "sha256"}}),
                json!({"get": {"id": id(4), "name": at("secret"), "digest": "sha256"}}),
                json!({"list": {"id": id(5), "name": format!("mine/{link}")}}),
                put(id(6), &at("new"), 5, id(6)),
                put(id(7), &at("secret"), 5, id(7)),
                json!({"mkdir": {"id": id(8), "name": at("new"), "parents": "make"}}),
                json!({"move": {"id": id(9), "name": "mine/file", "to": at("file")}}),
                json!({"move": {"id": id(10), "name": at("secret"), "to": "mine/stolen"}}),
                json!({"remove": {"id": id(11), "name": at("secret")}}),
            ] {
                let code = answer(&mut talk, &message);
                assert!(["outside_root", "denied"].contains(&code.as_str()), "{message}: {code}");
            }
        }
        // A list shows them, and goes into none.
        talk.say(json!({"list": {"id": 900, "name": "mine", "depth": "all"}}));
        let line = talk.line();
        let entries = line["entries"]["entries"].as_array().unwrap();
        let kinds = entries.iter().filter(|entry| entry["kind"] == "symlink").count();
        assert_eq!((entries.len(), kinds), (8, 5), "{line}");
        assert_eq!(word(&talk.line()), "ok");
        // What stays inside is followed.
        let inside = json!({"get": {"id": 901, "name": "mine/within/secret", "digest": "sha256"}});
        assert_eq!(answer(&mut talk, &inside), "end");
        assert_eq!((tree(&served), untouched(&outside)), (before.clone(), beside.clone()));
    }
    // A link itself is replaced, moved and removed: never what it leads to.
    let mut talk = house.talk(&scoped);
    for (id, message) in [
        put(1, "mine/to-sibling", 5, 801),
        json!({"move": {"id": 2, "name": "mine/by-the-root", "to": "mine/inner/moved"}}),
        json!({"remove": {"id": 3, "name": "mine/to-outside", "depth": "all"}}),
        put(4, "mine/absolute", 5, 804),
        json!({"remove": {"id": 5, "name": "mine/inner", "depth": "all"}}),
    ]
    .into_iter()
    .enumerate()
    {
        let expected = if [0, 3].contains(&id) { "done" } else { "ok" };
        assert_eq!(answer(&mut talk, &message), expected, "{message}");
    }
    assert_eq!(fs::read(served.join("other/secret")).unwrap(), b"secret");
    assert_eq!(untouched(&outside), beside);
    assert!(served.join("mine/to-sibling").symlink_metadata().unwrap().is_file());
}

#[test]
fn setuid_and_dotfiles() {
    let world = World::new();
    let home = world.home.path().join("home");
    fs::create_dir(&home).unwrap();
    let house = House::started(world, &["--require-token"], |command| {
        command.env("HOME", &home).current_dir(&home);
    });
    let mut talk = house.talk(&house.add("alice", ALL));
    let mut keys = put(1, ".ssh/authorized_keys", 5, 1);
    keys["put"]["mode"] = json!(0o7777);
    assert_eq!(answer(&mut talk, &keys), "done");
    let shared = json!({"mkdir": {"id": 2, "name": "shared", "mode": 0o7777}});
    assert_eq!(answer(&mut talk, &shared), "ok");
    for (id, name) in [(3, "~/.ssh/authorized_keys"), (4, "$HOME/.profile"), (5, ".profile")] {
        assert_eq!(answer(&mut talk, &put(id, name, 5, id)), "done");
    }
    let served = house.world.served();
    for name in [".ssh/authorized_keys", "shared"] {
        let mode = fs::metadata(served.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o777, "{name}");
    }
    assert!(served.join("~/.ssh/authorized_keys").is_file(), "a name is a name");
    let made: Vec<PathBuf> = tree(&home).into_keys().collect();
    assert!(made.is_empty(), "{made:?}");
}

#[test]
fn no_archive_is_read() {
    let world = World::new();
    let outside = outside(&world);
    let server = world.serve();
    let here = world.here();
    let evil = outside.join("evil");
    fs::write(&evil, "evil").unwrap();
    for (flags, name) in [("-cPf", "a.tar"), ("-czPf", "a.tgz")] {
        let mut tar = Command::new("tar");
        let made = tar.arg(flags).arg(here.join(name)).arg(&evil).status().unwrap();
        assert!(made.success());
    }
    fs::remove_file(&evil).unwrap();
    fs::create_dir(here.join("tree")).unwrap();
    fs::copy(here.join("a.tar"), here.join("tree/b.tar")).unwrap();
    world.run(server.address, &["put", "a.tar", "a.tgz"], 0);
    world.run(server.address, &["put", "-r", "tree"], 0);
    world.run(server.address, &["get", "a.tar", "-o", "back"], 0);
    world.run(server.address, &["get", "-r", "tree", "-o", "again"], 0);
    let served: Vec<PathBuf> = tree(&world.served()).into_keys().collect();
    let expected = ["a.tar", "a.tgz", "tree", "tree/b.tar"].map(|name| world.served().join(name));
    assert_eq!(served, expected);
    assert_eq!(fs::read(here.join("back")).unwrap(), fs::read(here.join("a.tar")).unwrap());
    assert!(!evil.exists());
}

#[test]
fn names_cannot_move_the_terminal_or_the_log() {
    const BAD: &str = "x\u{1b}[2J\u{1b}]0;t\u{7}\r\n\u{9b}31m\u{202e}\u{7f}\u{200b}\u{8}y";
    let world = World::new();
    let server = world.serve();
    let (bad, sub) = (format!("tree/{BAD}"), format!("tree/d{BAD}"));
    fs::create_dir_all(world.here().join(&sub)).unwrap();
    fs::write(world.here().join(&bad), "hello").unwrap();
    fs::write(world.here().join(&sub).join(BAD), "hello").unwrap();
    symlink("nothing", world.here().join(&sub).join(format!("link{BAD}"))).unwrap();
    let shown = |command: &str| {
        let mut script = Command::new("script");
        script.args(["-qec", &format!("{FTX} {command}"), "/dev/null"]).current_dir(world.here());
        script.env("FTX_SERVER", server.address.to_string()).env_remove("RUST_LOG");
        script
            .env("XDG_STATE_HOME", world.home.path().join("state"))
            .env("BAD", &bad)
            .env("NO_COLOR", "1");
        script.stdin(Stdio::null()).output().ok().map(|output| text(&output.stdout))
    };
    for (command, says) in [
        ("put -q -r tree", ""),
        ("put -q \"$BAD\" --as \"$BAD\"", ""),
        ("ls tree", "x\\x1b[2J"),
        ("ls -lr", "x\\x1b[2J"),
        ("stat \"$BAD\"", ""),
        ("du tree \"$BAD\"", "x\\x1b[2J"),
        ("sum \"$BAD\"", "x\\x1b[2J"),
        ("get -q \"none$BAD\"", "not_found"),
        ("get -q -r tree -o back", ""),
        ("mv \"$BAD\" \"tree/none/$BAD\"", "not_found"),
        ("rm \"$BAD\"", ""),
        ("rm \"$BAD\"", "not_found"),
    ] {
        let Some(said) = shown(command) else { return not_tested("there is no script(1)") };
        assert!(said.contains(says), "{command}: {said:?}");
        for letter in ['\u{1b}', '\u{7}', '\u{8}', '\u{9b}', '\u{202e}', '\u{200b}', '\u{7f}'] {
            assert!(!said.contains(letter), "{command} says {letter:?}: {said:?}");
        }
        // A terminal makes each end of a line both.
        assert!(!said.replace("\r\n", "").contains(['\r', '\n']), "{command}: {said:?}");
    }
    let log = server.log();
    assert!(log.contains("x\\x1b[2J"), "{log}");
    assert!(!log.chars().any(|letter| letter.is_control() && letter != '\n'), "{log:?}");
    assert!(log.lines().all(|line| line.starts_with("20")), "{log}");
}

#[test]
fn declared_length_is_the_law() {
    let world = World::new();
    let server = world.serve();
    fs::write(world.served().join("a"), "as it was").unwrap();
    let before = tree(&world.served());
    let announced = |size: Value| {
        let mut message = put(1, "a", 0, 0);
        message["put"]["size"] = size;
        message["put"]["transfer"] = json!(format!("{:032x}", rand()));
        message
    };
    let data = |size: Value| json!({"data": {"id": 1, "at": 0, "size": size}});
    let end = |size: Value| json!({"end": {"id": 1, "size": size, "digest": HELLO_DIGEST}});
    let too_large = json!(1_u64 << 53);
    for (messages, code) in [
        (vec![announced(json!(-1))], "bad_message"),
        (vec![announced(json!(-5))], "bad_message"),
        (vec![announced(too_large.clone())], "bad_message"),
        (vec![announced(json!(5.5))], "bad_message"),
        (vec![announced(json!(5)), data(json!(-5))], "bad_message"),
        (vec![announced(json!(5)), data(too_large.clone())], "bad_message"),
        (vec![announced(json!(5)), data(json!(6))], "bad_part"),
        (vec![announced(json!(0)), data(json!(1))], "bad_part"),
        (vec![announced(json!(5)), end(json!(-5))], "bad_message"),
        (vec![announced(json!(5)), end(json!(0))], "size_mismatch"),
        (vec![announced(json!(0)), end(json!(5))], "size_mismatch"),
        (vec![announced(json!(0)), end(json!(0))], "digest_mismatch"),
    ] {
        let mut talk = Talk::with(server.address);
        messages.iter().for_each(|message| talk.say(message.clone()));
        assert_eq!(talk.code(), code, "{messages:?}");
    }
    // All of the bytes without an end are not a file, whoever hangs up how.
    for how in [Shutdown::Write, Shutdown::Both] {
        let mut talk = Talk::with(server.address);
        talk.say(announced(json!(5)));
        talk.part(1, 0, b"hello");
        talk.stream().shutdown(how).unwrap();
        while !talk.line().is_null() {}
    }
    until("nothing is left in staging", || world.staged() == 0);
    assert_eq!(tree(&world.served()), before);
}

/// A number that no other transfer has.
fn rand() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0xfeed_0000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[test]
fn cleanup_stays_inside() {
    let house = House::locked();
    let outside = outside(&house.world);
    let served = house.world.served();
    let (dir, aside) = (served.join("dir"), served.join("aside"));
    fs::create_dir(&dir).unwrap();
    for name in ["dir/secret", "dir/beside", "keep"] {
        fs::write(served.join(name), "as it was").unwrap();
    }
    let (before, beside) = (tree(&served), untouched(&outside));
    for (how, swapped) in
        ["digest", "abort", "cut", "token"].into_iter().flat_map(|how| [(how, true), (how, false)])
    {
        let name = format!("{how}-{swapped}");
        let mut talk = house.talk(&house.add(&name, ALL));
        talk.say(put(1, "dir/secret", 5 * MIB, rand()));
        talk.part(1, 0, &vec![7; MIB]);
        until("it has begun", || house.world.staged() == 1);
        // What it was to replace is elsewhere now, and so is what a careless one would remove.
        if swapped {
            fs::rename(&dir, &aside).unwrap();
            symlink(&outside, &dir).unwrap();
        }
        let expected = match how {
            "digest" => {
                talk.say(json!({"end": {"id": 1, "size": MIB, "digest": HELLO_DIGEST}}));
                "size_mismatch"
            }
            "abort" => {
                talk.say(json!({"abort": {"id": 1, "code": "changed"}}));
                "changed"
            }
            "token" => {
                house.remove(&name);
                talk.part(1, MIB, &vec![7; MIB]);
                "denied"
            }
            _ => {
                talk.stream().socket.shutdown(Shutdown::Both).unwrap();
                "the end"
            }
        };
        assert_eq!(word(&talk.line()), expected, "{name}");
        until("nothing is left in staging", || house.world.staged() == 0);
        if swapped {
            fs::remove_file(&dir).unwrap();
            fs::rename(&aside, &dir).unwrap();
        }
        assert_eq!(
            (tree(&served), untouched(&outside)),
            (before.clone(), beside.clone()),
            "{name}"
        );
    }
}

#[test]
fn dangling_link_creates_nothing_outside() {
    let world = World::new();
    let server = world.serve();
    let outside = outside(&world);
    let served = world.served();
    let beside = untouched(&outside);
    let links = ["up", "absolute", "deep"];
    let lay = || {
        symlink("../outside/new", served.join("up")).unwrap();
        symlink(outside.join("new"), served.join("absolute")).unwrap();
        symlink("../outside/no/directory", served.join("deep")).unwrap();
        fs::write(served.join("file"), "hello").unwrap();
    };
    let mut talk = Talk::with(server.address);
    let mut id = 0;
    let mut ask = |mut message: Value| {
        id += 1;
        let fields = message.as_object_mut().unwrap().values_mut().next().unwrap();
        fields["id"] = json!(id);
        answer(&mut talk, &message)
    };
    // Below such a link nothing is made, with whatever is to be made on the way.
    lay();
    for link in links {
        let below = format!("{link}/new/er");
        for message in [
            put(0, &below, 5, rand()),
            json!({"mkdir": {"name": below, "parents": "make"}}),
            json!({"mkdir": {"name": link, "parents": "make", "mtime": [0, 0], "mode": 0o777}}),
            json!({"move": {"name": "file", "to": format!("{link}/new")}}),
            json!({"move": {"name": "file", "to": below}}),
        ] {
            let code = ask(message.clone());
            assert!(!["done", "ok"].contains(&code.as_str()), "{message}: {code}");
            assert!(!["internal", "storage_failed"].contains(&code.as_str()), "{message}: {code}");
        }
    }
    // What is put or moved onto one takes its place.
    for link in links {
        assert_eq!(ask(put(0, link, 5, rand())), "done");
        assert!(served.join(link).symlink_metadata().unwrap().is_file());
        fs::remove_file(served.join(link)).unwrap();
    }
    lay();
    for link in links {
        fs::write(served.join("file"), "hello").unwrap();
        assert_eq!(ask(json!({"move": {"name": "file", "to": link}})), "ok");
        assert!(served.join(link).symlink_metadata().unwrap().is_file());
    }
    assert_eq!(untouched(&outside), beside);
}

#[test]
fn read_only_server_creates_nothing() {
    let world = World::new();
    let served = world.served();
    fs::create_dir(served.join("dir")).unwrap();
    fs::write(served.join("dir/file"), "as it was").unwrap();
    symlink("nothing", served.join("dangling")).unwrap();
    let everything = || {
        let output =
            Command::new("find").arg(&served).args(["-printf", "%p %m %s %T@ %C@\\n"]).output();
        let mut lines: Vec<String> =
            text(&output.unwrap().stdout).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let before = everything();
    assert_eq!(before.len(), 4, "{before:?}");
    let server = world.serve_with(&["--read-only"]);
    let mut talk = Talk::with(server.address);
    for (id, name) in (0_u64..).zip(["new", "dir/new", "dir/file", "dir", "dangling", "no/thing"]) {
        let id = |number| 10 * id + number;
        for message in [
            put(id(1), name, 5, rand()),
            json!({"mkdir": {"id": id(3), "name": name, "parents": "make", "mtime": [0, 0], "mode": 0}}),
            json!({"move": {"id": id(4), "name": "dir/file", "to": name}}),
            json!({"move": {"id": id(5), "name": name, "to": "moved"}}),
            json!({"remove": {"id": id(6), "name": name, "depth": "all"}}),
        ] {
            assert_eq!(answer(&mut talk, &message), "read_only", "{message}");
        }
        assert!(
            !["ok", "done"].contains(
                &answer(&mut talk, &json!({"resume": {"id": id(7), "transfer": "0".repeat(32)}}))
                    .as_str()
            )
        );
    }
    let get = json!({"get": {"id": 900, "name": "dir/file", "digest": "sha256"}});
    assert_eq!(answer(&mut talk, &get), "end");
    drop(server);
    assert_eq!(everything(), before);
}

#[test]
fn peer_sets_no_knob() {
    let world = World::new();
    let server = world.serve_with(&["--idle-timeout", "300ms", "--header-timeout", "300ms"]);
    let hello = |fields: Value| {
        let mut talk = Talk::connect(server.address);
        let mut hello = json!({"hello": {"ftx": 1}});
        for (field, value) in fields.as_object().unwrap() {
            hello["hello"][field] = value.clone();
        }
        talk.say(hello);
        let welcome = talk.line();
        (talk, welcome)
    };
    let (_, as_to_everybody) = hello(json!({}));
    assert!(as_to_everybody["welcome"].is_object());
    let most = (1_u64 << 53) - 1;
    for number in [json!(0), json!(1), json!(-1), json!(most)] {
        let knobs = [
            "threads",
            "streams",
            "alloc",
            "max_alloc",
            "timeout",
            "idle_timeout",
            "part",
            "line",
            "requests",
            "file",
            "grid",
            "rate",
            "buffer",
            "window",
            "compression",
            "block",
        ];
        let mut fields: serde_json::Map<_, _> =
            knobs.iter().map(|&knob| (knob.to_owned(), number.clone())).collect();
        fields.insert("limits".to_owned(), json!(fields.clone()));
        let ask = || hello(Value::Object(fields.clone()));
        // The limits are what they are.
        let (mut talk, welcome) = ask();
        assert_eq!(welcome, as_to_everybody);
        let mut message = put(1, "a", 2 * MIB, rand());
        message["put"]["limits"] = json!(fields);
        talk.say(message);
        talk.say(json!({"data": {"id": 1, "at": 0, "size": MIB + 1, "limits": fields}}));
        assert_eq!(talk.code(), "bad_part");
        let (mut talk, _) = ask();
        talk.send(&[&[b' '; 33_000][..], b"\n"].concat());
        assert_eq!(talk.code(), "line_too_long");
        // And so is the server's patience.
        let began = Instant::now();
        let (mut talk, _) = ask();
        assert_eq!(talk.code(), "timeout");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    // To ask for more of a list, and more, is no way to make a server hold it.
    fs::write(world.served().join("file"), "hello").unwrap();
    let mut talk = Talk::with(server.address);
    talk.say(json!({"list": {"id": 1, "depth": "all"}}));
    (0..2_000).for_each(|_| talk.say(json!({"more": {"id": 1}})));
    assert_eq!(word(&talk.line()), "entries");
    assert_eq!(word(&talk.line()), "ok");
    assert!(talk.is_answered(2));
    until("nothing is left in staging", || world.staged() == 0);
}

#[test]
fn nothing_is_unlimited_by_a_nought() {
    let world = World::new();
    let refused = |args: &[&str]| {
        let mut command = Command::new(FTX);
        let state = world.home.path().join("kept");
        command.args(args).env("XDG_STATE_HOME", state).stdin(Stdio::null());
        let output = run_to_its_end(&mut command);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output.stderr));
        text(&output.stderr)
    };
    let served = world.served();
    let served = served.to_str().unwrap();
    let serve = ["serve", served, "--listen", "127.0.0.1:0"];
    let options = [
        "threads",
        "limit-rate",
        "max-connections",
        "max-requests",
        "max-connections-per-address",
        "max-failed-logins",
        "idle-timeout",
        "header-timeout",
    ];
    for option in options {
        let said = refused(&[&serve[..], &[&format!("--{option}=0")]].concat());
        let is_told = option.starts_with("max") || option.ends_with("timeout");
        assert!(!is_told || said.contains("never means unlimited"), "{said}");
    }
    for option in ["max-bytes", "max-partials", "expires"] {
        let add = ["token", "--of", served, "add", "alice", "--can", "write"];
        refused(&[&add[..], &[&format!("--{option}=0")]].concat());
    }
    // Where it is a number like the others, it is the smallest.
    let server = world.serve_with(&["--max-size", "0"]);
    let mut talk = Talk::with(server.address);
    assert_eq!(answer(&mut talk, &put(1, "a", 5, rand())), "too_large");
    let mut unknown = put(2, "a", 5, rand());
    unknown["put"].as_object_mut().unwrap().remove("size");
    assert_eq!(answer(&mut talk, &unknown), "too_large");
    drop(server);
    let mut server = world.serve_with(&["--drain-timeout", "0s", "--partial-ttl", "0s"]);
    let mut cut = Talk::with(server.address);
    cut.say(put(1, "a", 20 * MIB, rand()));
    (0..9).for_each(|part| cut.part(1, part * MIB, &vec![1; MIB]));
    assert_eq!(word(&cut.line()), "kept");
    drop(cut);
    until("it is not kept", || world.staged() == 0);
    let mut runs = Talk::with(server.address);
    runs.say(put(1, "a", 20 * MIB, rand()));
    assert!(runs.is_answered(2));
    server.signal("-TERM");
    until("it does not wait", || server.child.try_wait().unwrap().is_some());
    assert!(!world.served().join("a").exists());
}

/// So many requests, of which each waits for what is above it, and all for the first, and what they cost the server.
/// The depth of each name is told by its number.
fn work_for_nested(server: &Server, requests: u64, depth: fn(u64) -> u64) -> u64 {
    let mut talk = Talk::with(server.address);
    let rest: String = (2..=requests)
        .map(|id| {
            let name = format!("a{}", "/a".repeat(depth(id) as usize));
            let message = match id % 4 {
                0 => json!({"stat": {"id": id, "name": name}}),
                1 => json!({"list": {"id": id, "name": name}}),
                2 => json!({"remove": {"id": id, "name": name}}),
                _ => json!({"mkdir": {"id": id, "name": name}}),
            };
            format!("{message}\n")
        })
        .collect();
    let before = server.worked();
    talk.say(put(1, "a", 5, rand()));
    talk.send(rest.as_bytes());
    talk.part(1, 0, b"hello");
    talk.say(json!({"end": {"id": 1, "size": 5, "digest": HELLO_DIGEST}}));
    let mut final_replies = 0;
    while final_replies < requests {
        let line = talk.line();
        assert!(!line.is_null(), "hung up on after {final_replies} of {requests}");
        final_replies += u64::from(line["entries"].is_null());
    }
    let work = server.worked() - before;
    let remove = json!({"remove": {"id": 9_999, "name": "a", "depth": "all"}});
    assert_eq!(answer(&mut talk, &remove), "ok");
    work
}

/// A processor that others use, too, is slower, so the least of some tries counts.
#[test]
fn no_quadratic_input() {
    const REQUESTS: u64 = 4_096;
    const FEWER: u64 = 8;
    const TRIES: usize = 4;
    let world = World::new();
    let server = world.serve();
    let depths: [fn(u64) -> u64; 3] = [|id| id % 128, |id| 127 - id % 128, |id| id * 7919 % 128];
    for (round, depth) in depths.into_iter().enumerate() {
        let (mut few, mut many) = (u64::MAX, u64::MAX);
        let is_linear = (0..TRIES).any(|_| {
            few = few.min(work_for_nested(&server, REQUESTS / FEWER, depth));
            many = many.min(work_for_nested(&server, REQUESTS, depth));
            // If each pair was looked at: 64 times as much. One hundredth is as little as can be told.
            many < 3 * FEWER * few.max(1)
        });
        assert!(is_linear, "round {round}: {FEWER} times as many are {many} for {few}");
        // And somebody else is not kept waiting.
        assert!(Talk::with(server.address).is_answered(1));
    }
}

/// Where there is no unsafe code there is no memory to overflow or to leak.
#[test]
fn no_unsafe_code_but_in_one_module() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for library in [
        "src/lib.rs",
        "protocol/src/lib.rs",
        "disk/src/lib.rs",
        "channel/src/lib.rs",
        "client/src/lib.rs",
    ] {
        let source = fs::read_to_string(root.join(library)).unwrap();
        assert!(source.contains("#![forbid(unsafe_code)]"), "{library}");
    }
    assert!(
        fs::read_to_string(root.join("src/main.rs")).unwrap().contains("#![deny(unsafe_code)]")
    );
    let sources = Command::new("grep")
        .args(["-rlE", "(expect|allow)\\(unsafe_code|unsafe_code,", "--include=*.rs"])
        .args(["src", "protocol/src", "disk/src", "channel/src", "client/src"])
        .current_dir(root)
        .output()
        .unwrap();
    assert_eq!(text(&sources.stdout), "src/memory.rs\n");
}

#[test]
fn forwarded_addresses_are_not_believed() {
    let v1 = format!("PROXY TCP4 {FAR_AWAY} 127.0.0.1 4321 7389\r\n").into_bytes();
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    v2.extend([203, 0, 113, 9, 127, 0, 0, 1, 16, 225, 28, 221]);
    let http = format!(
        "GET / HTTP/1.1\r\nX-Forwarded-For: {FAR_AWAY}\r\nForwarded: for={FAR_AWAY}\r\n\r\n"
    );
    let hello = json!({"hello": {
        "ftx": 1, "peer": FAR_AWAY, "forwarded": format!("for={FAR_AWAY}"), "x-forwarded-for": FAR_AWAY,
    }});
    let house = House::with(&["--count-loopback"]);
    let token = house.add("alice", ALL);
    for (begin, starts) in
        [(&v1[..], "HTTP/1.1 505 "), (&v2, "{\"error\""), (http.as_bytes(), "HTTP/1.1 505 ")]
    {
        let bytes =
            [begin, format!("{hello}\n{}\n", json!({"list": {"id": 1}})).as_bytes()].concat();
        let mut plain = TcpStream::connect(house.server.address).unwrap();
        plain.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = plain.write_all(&bytes).and_then(|()| plain.shutdown(Shutdown::Write));
        let (mut said, mut inside) = (Vec::new(), Vec::new());
        let _ = plain.read_to_end(&mut said);
        let mut talk = house.connected();
        talk.send(&bytes);
        let _ = talk.stream().socket.shutdown(Shutdown::Write);
        let _ = talk.stream().read_to_end(&mut inside);
        for said in [text(&said), text(&inside)] {
            assert!(said.starts_with(starts) && !said.contains("welcome"), "{said}");
        }
    }
    // In a hello they are words without a meaning.
    let mut hello = hello;
    hello["hello"]["token"] = json!(token);
    let mut talk = house.connected();
    talk.say(hello);
    assert_eq!(word(&talk.line()), "welcome");
    assert_eq!(answer(&mut talk, &put(1, "a", 5, rand())), "done");
    house.until_logged("stored");
    let log = house.server.log();
    assert!(log.contains("peer=127.0.0.1:") && !log.contains(FAR_AWAY), "{log}");
}

#[test]
fn client_writes_only_names_it_asked_for() {
    let here = "127.0.0.1:0";
    for bad in [
        "../evil",
        "tree/../../evil",
        "/tmp/evil-of-ftx",
        "evil",
        "tre",
        "tree2/evil",
        "tree/../evil",
        "tree//evil",
        "tree/./evil",
        ".ssh/evil",
        "tree/.",
        "tree/..",
        "tree/",
        "",
    ] {
        for kind in ["file", "directory"] {
            let world = World::new();
            let liar = liar_listing(vec![entry("tree/good", "file"), entry(bad, kind)]);
            let front = Front::start(here, liar, &own_certificate(), |_| None);
            let mut get =
                world.ftx(front.address, ["get", "-r", "tree", "-o", "back", "--retry-for", "0"]);
            let output = get.env("FTX_SERVER", front.line()).output().unwrap();
            let said = text(&output.stderr);
            assert!(!output.status.success(), "{bad:?}, a {kind}: {said}");
            // Only what is below the place that was named, and of that only what was right.
            let made: Vec<PathBuf> = tree(&world.here()).into_keys().collect();
            for path in &made {
                let rest = path.strip_prefix(world.here()).unwrap().to_str().unwrap();
                assert!(["back", "back/good"].contains(&rest), "{bad:?}, a {kind}: {path:?}");
            }
            assert!(tree(world.home.path()).keys().all(|path| !path.ends_with("evil")), "{bad:?}");
        }
    }
    // Not by what a single get or put is answered with, either.
    let world = World::new();
    let liar = crate::liars::liar(|talk: &mut Talk, request| {
        let id = request["get"]["id"].as_u64().unwrap();
        let file = json!({"file": {"id": id, "name": "../evil", "size": 5, "at": 0, "version": "v", "mtime": [0, 0], "mode": 0o7777}});
        talk.say(file);
        talk.part(id, 0, b"hello");
        talk.say(json!({"end": {"id": id, "name": "../evil", "size": 5, "digest": HELLO_DIGEST}}));
    });
    let front = Front::start(here, liar, &own_certificate(), |_| None);
    let mut get = world.ftx(front.address, ["get", "tree/a"]);
    assert!(get.env("FTX_SERVER", front.line()).status().unwrap().success());
    let made: Vec<PathBuf> = tree(&world.here()).into_keys().collect();
    assert_eq!(made, [world.here().join("a")]);
    assert!(!world.home.path().join("evil").exists());
}
