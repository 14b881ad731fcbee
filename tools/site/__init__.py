"""What MkDocs needs to turn ``docs/`` and the pages it links to into a site."""
