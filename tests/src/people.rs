//! People who use the control API.

use serde_json::{Value, json};

use crate::{Answer, Ask, Door};

/// Somebody who has logged in.
#[derive(Clone)]
pub struct Person {
    door: Door,
    cookie: String,
    pub id: i64,
    pub name: String,
}

/// What the control API said.
pub struct Said {
    pub status: u16,
    pub body: Value,
}

impl Person {
    /// # Panics
    /// When the login is refused.
    pub async fn login(door: &Door, name: &str, password: &str) -> Self {
        let ask = Ask::post("/api/auth/login").json(&json!({"username": name, "password": password}));
        let answer = door.call(&ask).await.expect(200);
        let cookie = answer.header("set-cookie").expect("a login sets a cookie");
        let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
        let id = answer.json()["user"]["id"].as_i64().expect("a user has an id");
        Self {
            door: door.clone(),
            cookie,
            id,
            name: name.to_owned(),
        }
    }

    /// The cookie of this person's login.
    pub fn cookie(&self) -> &str {
        &self.cookie
    }

    pub async fn get(&self, path: &str) -> Said {
        self.asks(Ask::get(path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Said {
        self.asks(Ask::post(path).json(&body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Said {
        self.asks(Ask::new("PUT", path).json(&body)).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Said {
        self.asks(Ask::new("PATCH", path).json(&body)).await
    }

    pub async fn delete(&self, path: &str) -> Said {
        self.asks(Ask::new("DELETE", path)).await
    }

    async fn asks(&self, ask: Ask) -> Said {
        Said::of(self.door.call(&ask.header("cookie", &self.cookie)).await)
    }

    /// A proxy token of this person's; for one provider, or for whichever its path names.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn proxy_token(&self, provider: Option<&str>) -> String {
        let body = provider.map_or(json!({}), |provider| json!({"provider": provider}));
        let said = self.post("/api/proxy-tokens", body).await.ok();
        said["token"].as_str().expect("a token").to_owned()
    }

    /// The same person at another door, with the same login.
    pub fn at(&self, door: &Door) -> Self {
        Self {
            door: door.clone(),
            ..self.clone()
        }
    }

    /// Every request that the log holds, oldest first, once there are `count` of them.
    ///
    /// # Panics
    /// When they do not come.
    pub async fn request_log(&self, count: usize) -> Vec<Value> {
        crate::eventually("the request log", async || {
            let mut rows = self.get("/api/usage/requests?limit=200").await.ok()["requests"]
                .as_array()?
                .clone();
            rows.reverse();
            (rows.len() >= count).then_some(rows)
        })
        .await
    }
}

impl Person {
    /// Every row of the ledger that this person may see, page by page, newest first.
    pub async fn ledger(&self) -> Vec<Value> {
        let (mut rows, mut after) = (Vec::new(), String::new());
        loop {
            let mut page = self.get(&format!("/api/usage/requests?limit=500{after}")).await.ok();
            rows.append(page["requests"].as_array_mut().expect("a list"));
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return rows,
            }
        }
    }
}

impl Said {
    fn of(answer: Answer) -> Self {
        Self {
            status: answer.status,
            body: answer.json(),
        }
    }

    /// The body of an answer that must be a success.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{}: {}", self.status, self.body);
        self.body
    }

    /// The code of a refusal with this status.
    ///
    /// # Panics
    /// When it has another one.
    #[track_caller]
    pub fn refused(self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        self.body["code"].as_str().unwrap_or_default().to_owned()
    }
}
