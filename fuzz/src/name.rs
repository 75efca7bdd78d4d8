//! Names on the wire.

use ftx_protocol::Name;

/// Two names, with a line break between them: what is taken for one is safe beneath a root, and survives JSON.
pub fn name(bytes: &[u8]) {
    if let Ok(name) = serde_json::from_slice::<Name>(bytes) {
        check(&name);
    }
    let (one, other) = match bytes.iter().position(|&byte| byte == b'\n') {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &b""[..]),
    };
    let names = [one, other].map(|bytes| Name::parse(bytes).ok());
    for (name, bytes) in names.iter().zip([one, other]) {
        let legal = is_legal(bytes);
        assert_eq!(name.is_some(), legal);
        if let Some(name) = name {
            assert_eq!(name.as_bytes(), bytes, "it is never normalised");
            check(name);
        }
    }
    if let [Some(one), Some(other)] = &names {
        let (parts, others): (Vec<_>, Vec<_>) = (one.parts().collect(), other.parts().collect());
        let overlaps = parts.iter().zip(&others).all(|(part, other)| part == other);
        assert_eq!(one.overlaps(other), overlaps);
        assert_eq!(other.overlaps(one), overlaps);
        assert_eq!(one.is_or_is_below(other), parts.starts_with(&others));
        if let Ok(inside) = Name::inside(Some(one), other.as_bytes()) {
            assert!(inside != *one && inside.is_or_is_below(one));
        }
    }
}

fn is_legal(bytes: &[u8]) -> bool {
    let part_is_legal = |part: &[u8]| {
        !matches!(part, b"" | b"." | b"..") && part.len() <= 255 && !part.contains(&0)
    };
    let parts = || bytes.split(|&byte| byte == b'/');
    bytes.len() <= 4_095 && parts().count() <= 128 && parts().all(part_is_legal)
}

fn check(name: &Name) {
    assert!(is_legal(name.as_bytes()));
    let json = serde_json::to_vec(name).unwrap();
    assert!(json.len() <= Name::line_bytes(name.as_bytes()));
    assert_eq!(&serde_json::from_slice::<Name>(&json).unwrap(), name);
    assert!(!name.to_string().contains(char::is_control));
    let whole = match name.parent() {
        Some(parent) => [parent.as_bytes(), b"/", name.last_part()].concat(),
        None => name.last_part().to_vec(),
    };
    assert_eq!(whole, name.as_bytes());
    assert_eq!(name.parent().as_ref().map(Name::as_bytes), name.parent_bytes());
}
