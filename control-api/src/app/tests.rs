use std::collections::BTreeSet;

use super::routes;
use crate::testing::worlds;

#[tokio::test]
async fn a_wrong_method_is_said_in_json() {
    let [world, ..] = &worlds().await[..] else {
        unreachable!()
    };
    let refused = world
        .nobody()
        .delete("/api/users")
        .await
        .refused(405, "method_not_allowed");
    assert_eq!(refused.header("allow"), "GET,HEAD,POST");
    world
        .nobody()
        .delete("/api/openapi.json")
        .await
        .refused(405, "method_not_allowed");
}

#[tokio::test]
async fn the_api_describes_itself() {
    let [world, ..] = &worlds().await[..] else {
        unreachable!()
    };
    let document = world.nobody().get("/api/openapi.json").await.ok().json;
    assert_eq!(document["info"]["title"], "ACE Gateway control API");
    let paths = document["paths"].as_object().unwrap();
    let served = routes().to_openapi().paths.paths;
    assert_eq!(
        paths.keys().collect::<BTreeSet<_>>(),
        served.keys().collect::<BTreeSet<_>>()
    );
    assert_eq!(
        document["components"]["securitySchemes"]["cookie"]["name"],
        "session_token"
    );
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
        }
    }
}
