"""Scripts: what is run in a page, in a world of its own.

There a page cannot have put anything else in place of these functions.
"""

READ = """(limit => {
    const type = document.doctype, root = document.documentElement;
    let html = type ? new XMLSerializer().serializeToString(type) + "\\n" : "";
    html += root ? root.outerHTML : "";
    if (html.length > limit && !%s) return {url: document.URL, size: html.length};
    return {url: document.URL, html: html.slice(0, limit).toWellFormed()};
})(%d)"""
"""The document as it is now; takes whether it may be cut, and how long it may be."""

AWAIT = """(selector => new Promise(done => {
    const look = () => {
        if (!document.querySelector(selector)) return false;
        done(true);
        return true;
    };
    if (look()) return;
    const observer = new MutationObserver(() => { if (look()) observer.disconnect(); });
    observer.observe(document, {subtree: true, childList: true, attributes: true});
}))(%s)"""
"""Waits until there is an element; takes an expression that gives the selector."""
