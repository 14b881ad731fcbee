"""The same model and preprocessing behind other servers, each set up as its documentation recommends."""
