"""`python -m dmcp_deploy` is `dmcp-deploy`."""

from dmcp_deploy.cli.main import main

if __name__ == "__main__":
    main()
