//! Some providers repeat the key that they refuse in the words of the refusal.

use std::borrow::Cow;

use memchr::memmem;

/// A body in which every echo of the key is starred out, or `None` where there is none. The length stays, so that
/// `Content-Length` still holds.
pub fn mask_echo(body: &[u8], key: &str) -> Option<Vec<u8>> {
    let mut masked = Cow::Borrowed(body);
    star_out(&mut masked, key);
    if key.contains('/') {
        // Some JSON writers escape slashes.
        star_out(&mut masked, &key.replace('/', "\\/"));
    }
    match masked {
        Cow::Owned(masked) => Some(masked),
        Cow::Borrowed(_) => None,
    }
}

fn star_out(body: &mut Cow<'_, [u8]>, key: &str) {
    if key.is_empty() {
        return;
    }
    let found = memmem::find_iter(body, key).collect::<Vec<_>>();
    for at in found {
        body.to_mut()[at..at + key.len()].fill(b'*');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap_20_an_echo_of_the_key_is_masked_and_nothing_else_changes() {
        let body = br#"{"error":{"message":"Incorrect API key provided: sk-abc123. Again sk-abc123"}}"#;
        let masked = mask_echo(body, "sk-abc123").unwrap();
        let text = String::from_utf8(masked).unwrap();
        assert_eq!(
            text,
            r#"{"error":{"message":"Incorrect API key provided: *********. Again *********"}}"#
        );
    }

    #[test]
    fn trap_20_an_escaped_echo_is_masked_too() {
        assert_eq!(mask_echo(br#"bad key a\/b+c"#, "a/b+c").unwrap(), b"bad key ******");
    }

    #[test]
    fn a_body_without_an_echo_is_not_copied() {
        assert_eq!(mask_echo(b"no such model", "sk-abc123"), None);
        assert_eq!(mask_echo(b"", "sk-abc123"), None);
        assert_eq!(mask_echo(b"anything", ""), None);
    }
}
