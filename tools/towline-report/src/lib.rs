//! Result schema, merge, and the HTML page of a Towline run
