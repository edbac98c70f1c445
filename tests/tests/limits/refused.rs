//! Every kind of limit, on everybody that can be limited, on every route.
