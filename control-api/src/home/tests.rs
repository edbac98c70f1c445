use crate::testing::worlds;

#[tokio::test]
async fn the_page_says_what_to_try_at_the_address_that_was_used() {
    let [world, ..] = &worlds().await[..] else {
        unreachable!()
    };
    let page = world.nobody().get("/").await.ok();
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    assert!(
        page.text
            .contains("curl -c cookies.txt -X POST http://ace.test/api/auth/login"),
        "{page}"
    );
    assert!(!page.text.contains("{{"), "{page}");
    for outside in ["src=", "@import", "url(", "<script"] {
        assert!(
            !page.text.contains(outside),
            "the page needs nothing from elsewhere: {outside}"
        );
    }
}

#[tokio::test]
async fn a_host_that_is_none_is_not_repeated() {
    let edge = |host: &str| ace_policies::edge::EdgeHeaders {
        client: [127, 0, 0, 1].into(),
        scheme: "http".to_owned(),
        host: host.to_owned(),
        request_id: String::new(),
        time: 0,
    };
    assert_eq!(super::address(&edge("ace.test:5000")), "http://ace.test:5000");
    assert_eq!(super::address(&edge("[::1]:5000")), "http://[::1]:5000");
    assert_eq!(super::address(&edge("\"><script>")), "http://localhost:5000");
    assert_eq!(super::address(&edge("")), "http://localhost:5000");
}

#[tokio::test]
async fn what_is_not_there_is_said_in_the_askers_language() {
    let [world, ..] = &worlds().await[..] else {
        unreachable!()
    };
    for path in [
        "/api",
        "/api/",
        "/api/nothing",
        "/api/users/1/nothing",
        "/api/auth/login/",
    ] {
        world.nobody().get(path).await.refused(404, "not_found");
    }
    let page = world.nobody().get("/nothing").await;
    assert_eq!(
        (page.status.as_u16(), page.header("content-type")),
        (404, "text/plain; charset=utf-8")
    );
}
