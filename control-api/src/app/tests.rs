use std::collections::BTreeSet;

use serde_json::Value;

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

#[tokio::test]
async fn no_parameter_of_a_query_takes_a_nul() {
    for world in worlds().await {
        let admin = world.admin().await;
        let document = routes().to_openapi().to_json().unwrap();
        let document: Value = serde_json::from_str(&document).unwrap();
        let mut tried = 0;
        for (path, name) in query_parameters(&document) {
            let answer = admin
                .get(&format!("{path}?{name}=a%00b"))
                .await
                .refused(400, "invalid_field");
            let said = answer.json["error"].as_str().unwrap();
            assert!(said.starts_with(&format!("{name}: ")), "{path}: {said}");
            tried += 1;
        }
        assert!(tried > 50, "{tried}");
        let answer = admin.get("/api/users?a%00b=1").await.refused(400, "invalid_field");
        assert_eq!(answer.json["error"], "query: must not contain the character U+0000");
    }
}

/// The parameters of all GETs, each with a path that leads to where they are read.
fn query_parameters(document: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let parameters = item["get"]["parameters"].as_array().map_or(&[][..], Vec::as_slice);
        for parameter in parameters.iter().filter(|parameter| parameter["in"] == "query") {
            let id = if path.starts_with("/api/remote/") {
                "00000000-0000-0000-0000-000000000001"
            } else {
                "1"
            };
            let parts: Vec<&str> = path.split('/').collect();
            let parts = parts
                .into_iter()
                .map(|part| if part.starts_with('{') { id } else { part });
            let name = parameter["name"].as_str().unwrap().to_owned();
            found.push((parts.collect::<Vec<_>>().join("/"), name));
        }
    }
    found
}
