//! Every disguise in which an inside address was ever sent.

use proptest::prelude::*;

use super::*;

#[track_caller]
fn check(url: &str, allowed: &[&str], expected: Result<&str, &str>) {
    let allow = EgressAllow::parse(allowed).unwrap();
    let found = check_base_url(url, &allow);
    let found = found.as_ref().map(Url::as_str).map_err(EgressError::code);
    assert_eq!(found, expected, "{url} with {allowed:?}");
}

#[track_caller]
fn forbidden(url: &str) {
    check(url, &[], Err("base_url_forbidden"));
}

#[test]
fn public_https_urls_pass_in_their_normal_form() {
    check("https://api.openai.com/v1", &[], Ok("https://api.openai.com/v1"));
    check(
        " HTTPS://API.Example.COM:443/v1/ ",
        &[],
        Ok("https://api.example.com/v1/"),
    );
    check(
        "https://api.example.com.:8443",
        &[],
        Ok("https://api.example.com.:8443/"),
    );
    check("https://8.8.8.8", &[], Ok("https://8.8.8.8/"));
    check("https://[2606:4700::1111]/", &[], Ok("https://[2606:4700::1111]/"));
    check("https://[64:ff9b::8.8.8.8]/", &[], Ok("https://[64:ff9b::808:808]/"));
}

#[test]
fn trap_34_no_spelling_of_an_inside_address_passes() {
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "127.0.0.1.",
        "0.0.0.0",
        "0",
        "0.1.2.3",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "100.64.0.1",
        "100.127.255.255",
        "169.254.1.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "198.51.100.1",
        "203.0.113.1",
        "198.18.0.1",
        "198.19.255.255",
        "192.88.99.1",
        "127。0。0。1",
        "①②⑦.⓪.⓪.①",
    ] {
        forbidden(&format!("https://{host}/v1"));
    }
}

#[test]
fn trap_34_no_inside_address_passes_as_ipv6() {
    for host in [
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:a9fe:a9fe",
        "::127.0.0.1",
        "::8.8.8.8",
        "64:ff9b::10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:808:808::",
        "2001:0:7f00:1::1",
        "fe80::1",
        "fec0::1",
        "fc00::1",
        "fd12:3456::1",
        "ff02::1",
        "2001:db8::1",
        "3fff::1",
        "2001:2::1",
        "2001:10::1",
        "100::1",
        "4000::1",
    ] {
        forbidden(&format!("https://[{host}]/v1"));
    }
}

#[test]
fn trap_34_metadata_services_are_never_reached() {
    for host in [
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "168.63.129.16",
        "metadata.google.internal",
        "metadata.google.internal.",
        "metadata",
    ] {
        forbidden(&format!("https://{host}/latest/meta-data"));
    }
}

#[test]
fn private_names_are_refused() {
    for host in [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "api.localhost",
        "a.b.localhost.",
        "vault.internal",
        "printer.local",
        "host.localdomain",
        "router.lan",
        "nas.home.arpa",
        "llm.corp",
        "provider",
    ] {
        forbidden(&format!("https://{host}/"));
    }
    check("https://notlocalhost.com", &[], Ok("https://notlocalhost.com/"));
    check("https://internal.example.com", &[], Ok("https://internal.example.com/"));
}

#[test]
fn urls_that_hide_something_are_refused() {
    for url in [
        "",
        "api.openai.com/v1",
        "/v1",
        "https://",
        "https:///",
        "ftp://example.com",
        "file:///etc/passwd",
        "gopher://example.com",
        "data:text/plain,x",
        "https://user@example.com",
        "https://user:pass@example.com",
        "https://:pass@example.com",
        "https://api.openai.com@10.0.0.1/",
        "https://example.com/?x=1",
        "https://example.com/?",
        "https://example.com/#x",
        "https://exa mple.com",
        "https://example.com:99999",
        "wss://example.com",
    ] {
        check(url, &[], Err("base_url_invalid"));
    }
    forbidden("http://api.openai.com/v1");
    forbidden("https://127.0.0.1\\@example.com");
}

#[test]
fn the_operator_may_allow_names_addresses_and_networks() {
    check(
        "http://localhost:9000/v1",
        &["localhost"],
        Ok("http://localhost:9000/v1"),
    );
    check("http://LLM.corp./v1", &["llm.corp"], Ok("http://llm.corp./v1"));
    check("https://other.corp", &["llm.corp"], Err("base_url_forbidden"));
    check("https://sub.llm.corp", &["llm.corp"], Err("base_url_forbidden"));
    check("http://10.1.2.3", &["10.0.0.0/8"], Ok("http://10.1.2.3/"));
    check("http://10.1.2.3", &["10.1.2.4"], Err("base_url_forbidden"));
    check(
        "http://[::ffff:10.1.2.3]",
        &["10.0.0.0/8"],
        Ok("http://[::ffff:a01:203]/"),
    );
    check("http://[fd00::7]", &["[fd00::7]"], Ok("http://[fd00::7]/"));
    check("http://8.8.8.8", &["10.0.0.0/8"], Err("base_url_forbidden"));
    check("http://user@localhost", &["localhost"], Err("base_url_invalid"));
    for entry in ["", "http://localhost", "localhost:80", "*.corp", "10.0.0.0/33", "a b"] {
        assert_eq!(
            EgressAllow::parse(&[entry]).map_err(|error| error.code()),
            Err("egress_allow_invalid"),
            "{entry}"
        );
    }
}

#[test]
fn trap_34_a_name_is_checked_again_by_its_address() {
    let none = EgressAllow::default();
    let by_name = EgressAllow::parse(&["llm.corp"]).unwrap();
    let by_net = EgressAllow::parse(&["169.254.169.0/24"]).unwrap();
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    assert!(check_address(address("93.184.216.34"), "example.com", &none).is_ok());
    assert!(check_address(address("10.0.0.1"), "example.com", &none).is_err());
    assert!(check_address(address("10.0.0.1"), "llm.corp.", &by_name).is_ok());
    assert!(check_address(address("10.0.0.1"), "rebound.example.com", &by_name).is_err());
    assert!(
        check_address(address("169.254.169.254"), "llm.corp", &by_name).is_err(),
        "a rebound name"
    );
    assert!(
        check_address(address("169.254.169.254"), "llm.corp", &by_net).is_ok(),
        "named by the operator"
    );
}

proptest! {
    #[test]
    fn an_ipv4_address_is_as_special_in_every_ipv6_disguise(bits: u32) {
        let v4 = std::net::Ipv4Addr::from(bits);
        let nat64 = std::net::Ipv6Addr::from((0x64_ff9b_u128 << 96) | u128::from(bits));
        prop_assert_eq!(special(v4.into()), special(v4.to_ipv6_mapped().into()));
        prop_assert_eq!(special(v4.into()), special(nat64.into()));
        prop_assert!(special(std::net::Ipv6Addr::from(u128::from(bits)).into()).is_some());
    }

    #[test]
    fn any_text_can_be_checked(url in ".*", entry in ".*") {
        let allow = EgressAllow::parse(&[entry]).unwrap_or_default();
        let _verdict = check_base_url(&url, &allow);
    }
}

#[test]
fn trap_34_a_url_that_is_sent_to_may_have_a_query_and_nothing_else_more() {
    let allow = EgressAllow::parse(&["hooks.corp"]).unwrap();
    let good = check_url("https://hooks.example.com/x?token=a%20b#part", &allow).unwrap();
    assert_eq!(good.as_str(), "https://hooks.example.com/x?token=a%20b#part");
    assert!(check_url("http://hooks.corp/x?y", &allow).is_ok());
    for refused in [
        "http://hooks.example.com/x",
        "https://169.254.169.254/x?y",
        "https://[::1]/x",
        "https://user@hooks.example.com/",
        "https://other.corp/",
        "file:///etc/passwd",
        "hooks.example.com",
    ] {
        assert!(check_url(refused, &allow).is_err(), "{refused}");
    }
}
